"""`solared doctor`: what is installed and ready, what is wrong, and how to mend it."""

import typer


def doctor() -> None:
    """Say what is installed and ready, what is wrong, and how to mend it; exit code 1 where something is broken."""
    from solared_hf.doctor import CHECKS, examine

    wrong, worth_knowing = [], []
    for subject in CHECKS:
        print(subject, flush=True)
        findings = examine(subject)
        width = max((len(finding.name) for finding in findings), default=0)
        for finding in findings:
            mark = "ok"
            if finding.advice:
                mark = "WRONG" if finding.broken else "note"
                (wrong if finding.broken else worth_knowing).append(finding.advice)
            print(f"  {mark:5}  {finding.name:{width}}  {finding.found}")
    for title, sentences in (("Worth knowing", worth_knowing), ("Wrong, and how to mend it", wrong)):
        if sentences:
            print(f"\n{title}:")
            print(*(f"- {sentence}" for sentence in sentences), sep="\n")
    if wrong:
        raise typer.Exit(1)
    print("\nNothing is wrong.")
