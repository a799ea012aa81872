"""What the Hub thinks of the YAML at the top of a README.md, for the fields that our cards have."""

import re

LICENSES = {
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "lgpl-3.0", "mpl-2.0", "cc0-1.0", "cc-by-4.0"),
    *("cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "odc-by", "odbl", "pddl", "openrail", "unknown", "other"),
}
TASKS = {
    *("time-series-forecasting", "tabular-regression", "tabular-classification", "tabular-to-text", "other"),
    *("feature-extraction", "image-classification", "image-feature-extraction", "video-classification"),
    *("text-classification", "text-generation", "token-classification", "fill-mask", "robotics", "graph-ml"),
}
SIZES = {
    *("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B"),
    *("10B<n<100B", "100B<n<1T", "n>1T"),
}
METADATA = re.compile(r"\s*---[\r\n]+([\S\s]*?)[\r\n]+---(?:\r\n|\n|$)")


def metadata(text: str) -> dict:
    """The YAML mapping at the top of a card; it is empty where there is none.

    Raises:
        ValueError: it is not a YAML mapping, or names a field twice.
    """
    import yaml

    block = METADATA.match(text)
    if not block:
        return {}
    try:
        node = yaml.compose(block[1], yaml.SafeLoader)
        fields = yaml.safe_load(block[1])
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    if not isinstance(fields, dict):
        raise ValueError("The metadata are no YAML mapping")
    if len(node.value) > len(fields):
        raise ValueError("A field of the metadata is given twice")
    return fields


def validate(text: str, repo_type: str) -> tuple[list[str], list[str]]:
    """Errors and warnings of a card."""
    try:
        fields = metadata(text)
    except ValueError as error:
        return [str(error)], []
    if not fields:
        return [], ["empty or missing yaml metadata in repo card"]
    tasks = "task_categories" if repo_type == "dataset" else "pipeline_tag"
    errors = list(_license_errors(fields)) + list(_list_errors(fields))
    errors += _config_errors(fields) if repo_type == "dataset" else _result_errors(fields)
    warnings = list(_unofficial(fields, tasks, TASKS))
    warnings += _unofficial(fields, "size_categories", SIZES) if repo_type == "dataset" else []
    return errors, warnings


def _values(value) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


def _array(value) -> list:
    return value if isinstance(value, list) else []


def _license_errors(fields):
    for name in _values(fields.get("license")):
        if name not in LICENSES:
            yield f'"license" must be one of [{", ".join(sorted(LICENSES))}]'
    if "other" in _values(fields.get("license")) and not fields.get("license_name"):
        yield '"license_name" is required when "license" is other'


def _list_errors(fields):
    for key in ("tags", "task_categories", "size_categories", "datasets", "metrics"):
        value = fields.get(key)
        if value is not None and not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
            yield f'"{key}" must be an array of strings'
    for key in ("configs", "model-index"):
        if fields.get(key) is not None and not isinstance(fields[key], list):
            yield f'"{key}" must be an array'
    for key in ("pretty_name", "pipeline_tag", "library_name"):
        if key in fields and not isinstance(fields[key], str):
            yield f'"{key}" must be a string'


def _missing(value, path: str, keys: tuple[str, ...]):
    if not isinstance(value, dict):
        yield f'"{path}" must be of type object'
    else:
        # A model may have no results yet: cards that Trainer writes say so.
        empty = [key for key in keys if value.get(key) in (None, "", {}) or (value[key] == [] and key != "results")]
        yield from (f'"{path}.{key}" is required' for key in empty)


def _config_errors(fields):
    for number, config in enumerate(_array(fields.get("configs"))):
        path = f"configs[{number}]"
        yield from _missing(config, path, ("config_name", "data_files"))
        files = config.get("data_files") if isinstance(config, dict) else None
        if isinstance(files, list) and all(isinstance(one, dict) for one in files):
            for index, one in enumerate(files):
                yield from _missing(one, f"{path}.data_files[{index}]", ("split", "path"))


def _result_errors(fields):
    for number, model in enumerate(_array(fields.get("model-index"))):
        path = f"model-index[{number}]"
        yield from _missing(model, path, ("name", "results"))
        results = model.get("results") if isinstance(model, dict) else None
        for index, result in enumerate(_values(results)):
            inside = f"{path}.results[{index}]"
            yield from _missing(result, inside, ("task", "dataset", "metrics"))
            result = result if isinstance(result, dict) else {}
            if result.get("task"):
                yield from _missing(result["task"], f"{inside}.task", ("type",))
            if result.get("dataset"):
                yield from _missing(result["dataset"], f"{inside}.dataset", ("type", "name"))
            for place, metric in enumerate(_values(result.get("metrics"))):
                yield from _missing(metric, f"{inside}.metrics[{place}]", ("type", "value"))


def _unofficial(fields, key, official):
    for value in _values(fields.get(key)):
        if value not in official:
            yield f'The {key} "{value}" is not in the official list: {", ".join(sorted(official))}'
