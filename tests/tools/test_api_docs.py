"""The pages of docs/api are what the docstrings say."""

import ast
import re

from tools import api_docs

PAGES = api_docs.pages()


def test_pages_are_what_the_tool_writes() -> None:
    """After a change of a docstring: ``python -m tools.api_docs``."""
    written = {path.name: path.read_text("utf-8") for path in api_docs.OUT.glob("*")}
    assert written == PAGES


def test_every_call_of_the_package_has_its_signature() -> None:
    assert "### `ssod.load_recipe(" in PAGES["ssod.md"]
    assert "### `ssod.train(" in PAGES["ssod.md"]


def test_every_result_has_its_attributes() -> None:
    calls, _, results = PAGES["ssod.md"].partition("## Results")
    assert "### `ssod.plan(cfg: Config) -> Plan`" in calls
    assert "### `class Plan(Amounts)`" in results
    assert "- `standings`: " in results
    assert {"Checked", "Evaluated", "Trained", "WrittenLabels"} <= set(re.findall(r"^### `class (\w+)", results, re.M))


def test_keys_have_type_default_and_help() -> None:
    (line,) = [line for line in PAGES["methods.md"].splitlines() if line.startswith("| `ramp` |")]
    assert line == "| `ramp` | `Duration` | `0` | Steps after burn-in over which `weight` rises from 0; 0 = at once. |"


def test_arguments_become_a_list() -> None:
    parts = ["Do.", "", "Args:", "    one: first", "        line.", "    **more: rest.", "", "Returns:", "    It."]
    text = "\n".join(f"    {line}" for line in parts)
    (node,) = ast.parse(f'def f(one: int, **more: int) -> int:\n    """{text.strip()}"""').body
    assert isinstance(node, ast.FunctionDef)
    assert api_docs.signature(node, "f") == "f(one: int, **more: int) -> int"
    lists = "**Args**\n\n- `one`: first line.\n- `**more`: rest.\n\n**Returns**\n\n- It."
    assert api_docs.prose(node) == f"Do.\n\n{lists}"
