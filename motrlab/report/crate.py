"""A run as a Workflow Run RO-Crate: what it was made of and by, in the form that repositories and workflow tools read.

    python -m motrlab report --run demo --crate

Profile: https://w3id.org/ro/wfrun/workflow/0.5. The main entity is the workflow, the notebooks in order; one action is
its run, with the config as its input and the report, the artefact, the tracks and the records as its results.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from motrlab.errors import UserError
from motrlab.files import replaced_folder
from motrlab.report.blocks import Source
from motrlab.report.numbers import numbers
from motrlab.report.provenance import command
from motrlab.run import Run

_PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
_LICENCE = "https://spdx.org/licenses/Apache-2.0"
_FOLDERS = {"artifact": "The fixed-point tracker", "tracks": "Tracks of every stage, MOTChallenge text"}


def write_crate(run: Run, notebooks: Path) -> Path:
    """Write `reports/RUN/crate/` and return it: the run's report, records, artefact and tracks, and what made them.

    `notebooks`: the folder of the workflow's steps. Frames are not copied. Raises UserError without the package
    `rocrate`, and for a run without a report.
    """
    crate = new_crate()
    if not (run.report / "index.html").is_file():
        raise UserError(f"{run.report}: no report yet; `python -m motrlab report --run {run.name}` writes it")
    source = Source(run)
    if not source.records:
        raise UserError(f"run {run.name!r} has no results that count: python -m motrlab run --run {run.name}")
    _describe(crate, run, source)
    workflow = _workflow(crate, run, notebooks)
    action = _action(crate, source, workflow, _inputs(crate, run, workflow), _results(crate, run, workflow))
    crate.root_dataset.append_to("mentions", action)
    target = run.report / "crate"
    with replaced_folder(target) as temporary:
        crate.write(temporary)
    return target


def new_crate() -> Any:
    """An empty crate. Raises UserError without the package."""
    try:
        from rocrate.rocrate import ROCrate
    except ImportError as error:
        raise UserError("report --crate needs the package rocrate: pip install 'motrlab[crate]'") from error
    return ROCrate(version="1.1")


def _describe(crate: Any, run: Run, source: Source) -> None:
    crate.name = f"motrlab run {run.name}"
    crate.description = f"A fixed-point multi-object tracker, trained and quantised: {command(run)}"
    crate.license = _LICENCE
    profiles = [
        crate.add_jsonld({"@id": url, "@type": "CreativeWork", "name": name, "version": url.rpartition("/")[2]})
        for url, name in _PROFILES.items()
    ]
    crate.root_dataset["conformsTo"] = profiles
    crate.root_dataset["datePublished"] = numbers(source)["date"]


def _workflow(crate: Any, run: Run, notebooks: Path) -> Any:
    """The main entity, and a step for every notebook."""
    language = crate.add_jsonld(
        {
            "@id": "https://papermill.readthedocs.io",
            "@type": "ComputerLanguage",
            "name": "Jupyter notebooks, run by papermill",
            "url": {"@id": "https://papermill.readthedocs.io"},
        }
    )
    steps = [
        crate.add_file(
            file,
            f"notebooks/{file.name}",
            properties={"@type": ["File", "SoftwareSourceCode"], "name": file.stem, "programmingLanguage": language},
        )
        for file in sorted(notebooks.glob("*.ipynb"))
    ]
    workflow = crate.add_file(
        Path(__file__).parent.parent / "pipeline.py",
        "workflow/pipeline.py",
        properties={
            "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow"],
            "name": "motrlab: notebooks in order",
            "programmingLanguage": language,
            "hasPart": steps,
        },
    )
    crate.mainEntity = workflow
    return workflow


def _inputs(crate: Any, run: Run, workflow: Any) -> list[Any]:
    """The config as a file, and preset and seed as values, each bound to a parameter of the workflow."""
    config = crate.add_file(
        run.path / "config.json", "config.json", properties={"name": "Config", "encodingFormat": "application/json"}
    )
    found = [config]
    _bind(crate, workflow, "input", "config", "File", config)
    values: dict[str, Any] = {"preset": run.config.preset, "seed": run.config.seed}
    values["data_root"] = run.config.data_root or "street, the embedded synthetic videos"
    for name, value in values.items():
        entity = crate.add_jsonld(
            {"@id": f"#input-{name}", "@type": "PropertyValue", "name": name, "value": str(value)}
        )
        _bind(crate, workflow, "input", name, "Text", entity)
        found.append(entity)
    return found


def _results(crate: Any, run: Run, workflow: Any) -> list[Any]:
    found = []
    files = {run.path / "records.jsonl": "records.jsonl"}
    files |= {p: f"report/{p.name}" for p in sorted(run.report.iterdir()) if p.suffix in (".html", ".json")}
    files |= {p: f"report/notebooks/{p.name}" for p in sorted((run.report / "notebooks").glob("*.html"))}
    for path, name in files.items():
        kind = {".html": "text/html", ".json": "application/json"}.get(path.suffix, "application/jsonl")
        found.append(crate.add_file(path, name, properties={"name": name, "encodingFormat": kind}))
    for name, told in _FOLDERS.items():
        if (run.path / name).is_dir():
            found.append(crate.add_dataset(run.path / name, f"{name}/", properties={"name": told}))
    for entity in found:
        kind = "Dataset" if entity.id.endswith("/") else "File"
        _bind(crate, workflow, "output", entity.id.strip("/").replace("/", "-"), kind, entity)
    return found


def _bind(crate: Any, workflow: Any, side: str, name: str, kind: str, entity: Any) -> None:
    """A formal parameter of the workflow, of which the entity is an example."""
    parameter = crate.add_jsonld(
        {"@id": f"#{side}-parameter-{name}", "@type": "FormalParameter", "name": name, "additionalType": kind}
    )
    workflow.append_to(side, parameter)
    entity["exampleOfWork"] = parameter


def _action(crate: Any, source: Source, workflow: Any, inputs: list[Any], results: list[Any]) -> Any:
    """The run: from its first record to its last, where, with which versions, and a part for each result."""
    records, told = source.records, numbers(source)
    last = records[-1]
    end = datetime.fromisoformat(last["started"]) + timedelta(seconds=last["duration_s"])
    versions = ", ".join(f"{name} {version}" for name, version in last["versions"].items())
    properties = {
        "@id": f"#run-{source.run.name}",
        "@type": "CreateAction",
        "name": command(source.run),
        "description": f"commit {told['git_commit']}, data {last['data_hash']}, {told['processor']}; {versions}",
        "actionStatus": {"@id": "http://schema.org/CompletedActionStatus"},
        "startTime": records[0]["started"],
        "endTime": end.isoformat(timespec="seconds"),
        "instrument": {"@id": workflow.id},
        "object": [{"@id": entity.id} for entity in inputs],
        "result": [{"@id": entity.id} for entity in results],
    }
    return crate.add_jsonld(properties)
