"""A replacement for `gh api` with pull requests of a commit and comments of an issue.

The scripts under test run it as `gh`. Its state is the JSON file that GH_STATE names. gojq, the
library in the real gh, evaluates --jq. Unknown requests are errors.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

PULLS = re.compile(r"repos/(?P<repo>[^/]+/[^/]+)/commits/(?P<sha>[0-9a-f]{40})/pulls")
COMMENTS = re.compile(
    r"repos/(?P<repo>[^/]+/[^/]+)/issues/(?P<number>\d+)/comments(\?per_page=100)?"
)
COMMENT = re.compile(r"repos/(?P<repo>[^/]+/[^/]+)/issues/comments/(?P<id>\d+)")


def main() -> None:
    """Answer one call."""
    parser = argparse.ArgumentParser(prog="gh")
    parser.add_argument("command", choices=["api"])
    parser.add_argument("path")
    parser.add_argument("--method", default="GET", choices=["GET", "POST", "PATCH"])
    parser.add_argument("--jq")
    parser.add_argument("--paginate", action="store_true")
    parser.add_argument("--silent", action="store_true")
    parser.add_argument("-F", dest="field")
    arguments = parser.parse_args()
    assert os.environ["GH_TOKEN"], "gh asks for a login"
    file = Path(os.environ["GH_STATE"])
    state = json.loads(file.read_text())
    state["calls"].append(f"{arguments.method} {arguments.path}")
    answer = _answer(state, arguments)
    file.write_text(json.dumps(state))
    if arguments.silent:
        return
    text = json.dumps(answer)
    if arguments.jq is None:
        sys.stdout.write(text)
    else:
        # gh prints strings raw and everything else as JSON, as jq does with --raw-output.
        subprocess.run(["gojq", "--raw-output", arguments.jq], input=text, text=True, check=True)


def _answer(state: dict[str, Any], asked: argparse.Namespace) -> Any:
    comments = state["comments"]
    if found := PULLS.fullmatch(asked.path):
        return [{"number": n} for n in state["pulls"].get(found["sha"], [])]
    if found := COMMENTS.fullmatch(asked.path):
        if asked.method == "GET":
            return [c for c in comments if c["issue"] == int(found["number"])]
        comment = {"id": 1000 + len(comments), "issue": int(found["number"])}
        comments.append({**comment, "user": {"type": "Bot"}, "body": _body(asked.field)})
        return comments[-1]
    if (found := COMMENT.fullmatch(asked.path)) and asked.method == "PATCH":
        (comment,) = (c for c in comments if c["id"] == int(found["id"]))
        comment["body"] = _body(asked.field)
        return comment
    sys.exit(f"gh: {asked.method} {asked.path}: HTTP 404")


def _body(field: str) -> str:
    name, _, path = field.partition("=@")
    assert name == "body"
    return Path(path).read_text("utf-8")


if __name__ == "__main__":
    main()
