"""A matrix as JUnit XML: a suite for each cell; what is foretold is no failure, and what was not is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.pytest_plugin.junit import printable

if TYPE_CHECKING:
    from junit_xml import TestCase

Data = dict[str, Any]


def junit(data: Data) -> str:
    """Suites are named like cells, classes ``CELL.selftests.FEATURE.test_file``, so that services group by kernel."""
    from junit_xml import TestSuite, to_xml_report_string

    surprises = {(one["cell"], one["nodeid"]): one for one in data["surprises"]}
    suites = []
    for cell in data["cells"]:
        cases = _cell_cases(cell, [one for one in data["surprises"] if one["cell"] == cell["id"] and not one["nodeid"]])
        for nodeid, outcome in cell["outcomes"].items():
            cases.append(_case(cell, nodeid, outcome, surprises.get((cell["id"], nodeid))))
        cases += [
            _missing(cell, one) for one in data["surprises"]
            if one["cell"] == cell["id"] and one["nodeid"] and one["nodeid"] not in cell["outcomes"]
        ]  # fmt: skip
        about = {key: printable(cell[key]) for key in ("recipe", "release", "identity", "state") if cell[key]}
        suites.append(TestSuite(cell["id"], cases, properties=about, timestamp=data["started"]))
    return str(to_xml_report_string(suites, prettyprint=True))


def _named(cell: Data, nodeid: str, seconds: float = 0.0) -> TestCase:
    from junit_xml import TestCase

    path, _, name = nodeid.partition("::")
    classname = f"{cell['id']}.{path.removesuffix('.py').replace('/', '.')}"
    return TestCase(printable(name or path), classname, seconds, file=path)


def _cell_cases(cell: Data, surprises: list[Data]) -> list[TestCase]:
    """A case for the kernel itself, which fails with what is wrong with the whole cell."""
    from junit_xml import TestCase

    case = TestCase(
        "kernel", cell["id"], cell["kernel_seconds"], stdout=printable(f"{cell['recipe']}\n{cell['release']}")
    )
    if surprises:
        text = "\n\n".join(f"{title}\n{told}" for title, told in cell["trouble"])
        case.add_error_info("; ".join(printable(one["text"]) for one in surprises), printable(text) or None)
    elif cell["state"] == "interrupted":
        case.add_skipped_info("interrupted")
    return [case]


def _case(cell: Data, nodeid: str, outcome: Data, surprise: Data | None) -> TestCase:
    case = _named(cell, nodeid, outcome.get("seconds", 0.0))
    message, detail = printable(outcome.get("message", "")), printable(outcome.get("detail", ""))
    if surprise:
        text = printable(f"{surprise['kind']}: {surprise['text']} (foretold: {surprise['expected']})")
        case.stdout = printable(_evidence(outcome))
        if outcome["result"] in ("crashed", "hung", "error"):
            case.add_error_info(text, detail, error_type=outcome["result"])
        else:
            case.add_failure_info(text, detail, failure_type=surprise["kind"])
    elif outcome["result"] == "skipped":
        case.add_skipped_info(message)
    elif outcome["result"] == "xfailed":
        case.add_skipped_info(f"failed as foretold: {message}")
    return case


def _missing(cell: Data, surprise: Data) -> TestCase:
    case = _named(cell, surprise["nodeid"])
    case.add_error_info(printable(f"{surprise['kind']}: {surprise['text']}"), error_type="missing")
    return case


def _evidence(outcome: Data) -> str:
    parts = [f"repeat it: {outcome.get('repro', '')}"]
    parts += [f"kernel log of the test:\n{outcome['kernel_log']}"] if outcome.get("kernel_log") else []
    parts += [f"console of its guest, last lines:\n{outcome['console']}"] if outcome.get("console") else []
    return "\n\n".join(parts)
