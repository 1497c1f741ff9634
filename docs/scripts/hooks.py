"""Hooks of MkDocs: model cards and pages from the repository's root, and links from pages to its source files."""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from cytoseed.export.card import model_card
from cytoseed.settings import ModelConfig

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "src" / "cytoseed" / "models"
_COPIED = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
_LINK = re.compile(r"\]\(([^)#:]+)(#[^)]*)?\)")


def bundled_models() -> list[ModelConfig]:
    """Configurations of the bundled models, by name."""
    files = sorted(MODELS.glob("*/config.json"))
    return [ModelConfig.from_dict(json.loads(file.read_text(encoding="utf-8"))) for file in files]


def on_config(config: Any) -> Any:
    """Add a page per model to the navigation."""
    for section in config.nav:
        for entry in next(iter(section.values())):
            if isinstance(entry, dict) and "Model cards" in entry:
                entry["Model cards"] = ["models/index.md", *(f"models/{m.name}.md" for m in bundled_models())]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add pages that are written elsewhere."""
    found = bundled_models()
    pages = {f"models/{model.name}.md": _card(model) for model in found}
    pages["models/index.md"] = _list(found)
    pages |= {page: (ROOT / name).read_text(encoding="utf-8") for name, page in _COPIED.items()}
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links that leave the documentation into links to the repository."""
    folder = posixpath.dirname(page.file.src_uri)
    base = "" if page.file.src_uri in _COPIED.values() else "docs"

    def replaced(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        path = posixpath.normpath(posixpath.join(base, folder, target))
        inside = _COPIED.get(path, path.removeprefix("docs/"))
        if (path.startswith("docs/") or path in _COPIED) and files.get_file_from_path(inside):
            return f"]({posixpath.relpath(inside, folder or '.')}{anchor})"
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"]({config.extra['repository']}/{kind}/main/{path}{anchor})" if (ROOT / path).exists() else match[0]

    return _LINK.sub(replaced, markdown)


def _card(model: ModelConfig) -> str:
    """The card that exported models carry, without the section on the sample image that only they have."""
    return re.sub(
        r"## Sample image\n.*?(?=## )", "", model_card(model, f"{model.name}-{model.version}"), flags=re.DOTALL
    )


def _list(models: list[ModelConfig]) -> str:
    rows = [
        f"| [{m.name}]({m.name}.md) | {m.description} | {' and '.join(m.targets)} | {m.pixel_size_um:g} µm "
        f"| {m.network} | {m.licence} |"
        for m in models
    ]
    head = "| model | for | finds | pixel size | network | licence of the weights |\n|---|---|---|---|---|---|\n"
    return _MODELS_TEXT + head + "\n".join(rows) + "\n"


_MODELS_TEXT = """# Model cards

The bundled models, as `cytoseed models` lists them. Each card says what a model was trained on, how accurate it is and
what its licence allows; exported models carry the same card.

"""
