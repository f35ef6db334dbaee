"""Everything that is made from a study folder, in one call."""

import os
from pathlib import Path

from analysis import answer, reliability, tables
from analysis.load import load


def build(folder: Path, out: Path | None = None) -> str:
    """Write table.md, .csv and .tex, reliability.png and .pdf and answer.md into ``out`` (default: the study folder).

    Returns the text for the terminal: table, answer, where the files are.

    Raises: RecordError when ``folder`` holds no study of this schema version.
    """
    out = out or folder
    out.mkdir(parents=True, exist_ok=True)
    study = load(folder)
    nulls = tables.null_eces(study)
    table = tables.summaries(study)
    pictures = reliability.draw(study, nulls, out)
    texts = {
        "table.md": tables.markdown(study, table, nulls),
        "table.csv": tables.csv(study, table, nulls),
        "table.tex": tables.latex(study, table, nulls),
        "answer.md": answer.answer(study),
    }
    for name, text in texts.items():
        (out / name).write_text(text)
    files = ", ".join([*texts, *(path.name for path in pictures)])
    where = os.path.relpath(out) if not os.path.relpath(out).startswith("..") else str(out)
    return f"{texts['table.md']}\n{texts['answer.md']}\nIn {where}: {files}"
