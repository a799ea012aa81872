"""`solared doctor`: list what is installed and ready, what is wrong, and how to repair it."""

import typer


def doctor() -> None:
    """List what is installed and ready, what is wrong, and how to repair it; exit with 1 if anything is broken."""
    from solared_hf.doctor import CHECKS, examine

    wrong: list[str] = []
    worth_knowing: list[str] = []
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
    for title, sentences in (("Worth knowing", worth_knowing), ("Wrong, and how to repair it", wrong)):
        if sentences:
            print(f"\n{title}:")
            print(*(f"- {sentence}" for sentence in sentences), sep="\n")
    if wrong:
        raise typer.Exit(1)
    print("\nNothing is wrong.")
