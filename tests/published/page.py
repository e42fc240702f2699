"""What worked, as a page that can be sent to somebody."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vlmdiff.config.document import row

ROOT = Path(__file__).parents[2]
PACKAGES = ("torch", "transformers", "tokenizers", "huggingface_hub", "safetensors", "pillow")
OTHERS = ("torchvision", "sae-lens")
COLUMNS = ("what", "published as", "outcome", "how closely, or why not", "shape", "says", "seconds", "GB")


def page(results: Sequence[Mapping[str, Any]], left_out: Sequence[str], other_versions: str) -> str:
    """Write the page.

    Args:
        results: what `looks.look` returned of each row.
        left_out: lines about rows that were not looked at.
        other_versions: of the libraries on the other side.
    """
    counts = ", ".join(
        f"{sum(one['outcome'] == outcome for one in results)} {outcome}"
        for outcome in dict.fromkeys(one["outcome"] for one in results)
    )
    table = [row(*COLUMNS), "|" + "---|" * len(COLUMNS), *(line(one) for one in results)]
    parts = [
        "# Published checkpoints and dictionaries",
        f"{len(results)} looked at: {counts or 'none'}.",
        "\n".join(f"- {one}" for one in machine(other_versions)),
        "\n".join(table),
        "*works*: token ids are equal and logits alike; dictionaries fire and rebuild alike. *reads*: it was "
        "loaded and ran, and no other library reads it. Seconds: fetched, loaded, looked. GB: most memory.",
    ]
    if left_out:
        parts += ["## Left out", "\n".join(f"- {one}" for one in left_out)]
    return "\n\n".join(parts) + "\n"


def line(result: Mapping[str, Any]) -> str:
    """Write the row of one result."""
    told = result["row"]
    example, commit = told["example"], result.get("commit")
    place = f"{example['repository']}{'/' + example['file'] if example['file'] else ''}"
    seconds = " / ".join(f"{result[key]:.0f}" for key in ("fetch_s", "load_s", "look_s") if key in result)
    return row(
        f"{told['kind']} `{told['name']}`, {result['dtype']}",
        f"{place}@{(commit or example['revision'])[:12]}",
        f"**{result['outcome']}**",
        result["said"],
        result.get("shape", ""),
        result.get("says", ""),
        seconds,
        f"{result['peak_gb']:.1f}" if "peak_gb" in result else "",
    )


def machine(other_versions: str) -> list[str]:
    """Return lines about versions and machine; no names of hosts, users or folders."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True, capture_output=True, check=False
    ).stdout.strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return [
        f"vlmdiff {commit or 'of an unknown commit'}; Python {platform.python_version()}; "
        + versions(PACKAGES),
        f"compared with: {other_versions}",
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GB; {accelerator()}",
    ]


def versions(names: Sequence[str]) -> str:
    """Return the versions of installed packages."""
    found = []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)


def accelerator() -> str:
    """Name the GPU that looks run on."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


if __name__ == "__main__":
    print(versions((*PACKAGES[:2], *OTHERS)))
