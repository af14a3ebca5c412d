"""Images and labels listed in a CSV file."""

import csv
import dataclasses
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from automix_jax.data.bad_records import printable
from automix_jax.data.dataset import DataFaults
from automix_jax.data.records import RecordDataset
from automix_jax.data.sources.folder import Files, hold_out, make_dataset
from automix_jax.errors import DataError, did_you_mean

_HEADERS = (["path", "label"], ["path", "label", "split"])
_TEST_SPLITS = ("test", "val", "validation")
_SPLITS = ("train", *_TEST_SPLITS)
_ADVICE = (
    "give a CSV file that begins with the line path,label or path,label,split, "
    "with paths relative to its folder"
)
_WHOLE = re.compile(r"[0-9]+")
_MAX_DIGITS = 9
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")

Fault = tuple[int, str]  # number of the line, sentence


@dataclasses.dataclass(frozen=True)
class _Row:
    """One image as the file lists it.

    Attributes:
        line: the number of its first line, from 1.
        path: as written, but with "/" between folders and without "." and "..".
        label: as written, without blanks around it.
        split: "train", "test", "val", "validation"; empty without a column of splits.
    """

    line: int
    path: str
    label: str
    split: str


def open_csv(path: str | None) -> RecordDataset:
    """Finds the photos that a CSV file lists, and reads none.

    Args:
        path: UTF-8 file (a byte order mark is fine), fields separated by commas and quoted as in
          RFC 4180, with the header path,label or path,label,split. Paths are relative to the
          file's folder, or absolute. Labels are names, or the numbers 0..K-1. The split is train,
          or test (val, validation; rows of val count only if there are none of test). Without that
          column 20 % of each class, chosen by a hash of the paths, are held out.

    Returns:
        The files by class, in the order of the rows; classes in the order of their names or
        numbers.

    Raises:
        DataFaults: of all faults, each with its line and the remedy.
        DataError: if there is no such file.
    """
    if path is None:
        raise DataError(f"csv has no path (config.data.path); {_ADVICE}")
    file = Path(path).expanduser().absolute()
    if not file.is_file():
        raise DataError(f"no file at {file} (config.data.path); {_ADVICE}")
    rows, faults = _read_rows(file)
    faults += [*_find_duplicates(rows), *_find_missing(rows, file.parent)]
    train, test, more = _make_splits(rows)
    faults += more
    if faults:
        raise DataFaults([_sentence(file, *fault) for fault in sorted(faults)])
    return make_dataset("csv", file.parent, train, test)


def _sentence(file: Path, line: int, fault: str) -> str:
    return printable(f"{file}, line {line}: {fault}")


def _read_rows(file: Path) -> tuple[list[_Row], list[Fault]]:
    """The rows without a fault of their own, and the faults of the others."""
    rows: list[_Row] = []
    faults: list[Fault] = []
    line = 1
    try:
        reader = csv.reader(io.StringIO(file.read_bytes().decode("utf-8-sig"), ""), strict=True)
        header = [name.strip() for name in next(reader, [])]
        if header not in _HEADERS:
            return [], [(1, _header_fault(header))]
        line = reader.line_num + 1
        for fields in reader:
            fault = _row_fault(fields, header)
            if fault:
                faults.append((line, fault))
            elif fields:  # An empty line is no row.
                rows.append(_make_row(line, *fields))
            line = reader.line_num + 1
    except csv.Error as error:
        faults.append((line, f"{error}; close every quote, and double the quotes inside a field"))
    except UnicodeDecodeError as error:
        line = 1 + error.object[: error.start].count(b"\n")
        faults.append((line, f"byte {error.object[error.start]:#x} is not UTF-8; save it as UTF-8"))
    except OSError as error:
        raise DataError(f"cannot read {file} ({error}); check its permissions") from error
    if not rows and not faults:
        faults.append((line, "there is no row below the header; add one for each image"))
    return rows, faults


def _header_fault(header: list[str]) -> str:
    expected = _HEADERS[-1]
    unknown = [name for name in header if name not in expected]
    missing = [name for name in expected[:2] if name not in header]
    if not any(header):
        return f"there is no header; {_ADVICE}"
    if missing:
        hint = did_you_mean(missing[0], unknown)
        return f'the header {",".join(header)} has no column "{missing[0]}"; {_ADVICE}{hint}'
    if unknown:
        return f'the header has the column "{unknown[0]}"; {_ADVICE}, and leave other columns out'
    return f"the header is {','.join(header)}; {_ADVICE}, in this order"


def _row_fault(fields: list[str], header: list[str]) -> str | None:
    """What is wrong with one row on its own."""
    if not fields:
        return None
    if len(fields) != len(header):
        return (
            f"there are {len(fields)} fields, but {len(header)} in the header; "
            "put a field that holds a comma in double quotes"
        )
    path, label, *split = fields
    label = label.strip()
    if not path:
        return "the path is empty; give the image or remove the row"
    if not label:
        return f"the label of {path} is empty; give its class or remove the row"
    if _NUMBER.fullmatch(label) and not (_WHOLE.fullmatch(label) and len(label) <= _MAX_DIGITS):
        return (
            f"the label {label} is a number but no class; give a whole number in 0..K-1 "
            f'or a name, such as "class {label}"'
        )
    if split and split[0].strip() not in _SPLITS:
        return f'the split is "{split[0]}"; write {", ".join(_TEST_SPLITS)} or train'
    return None


def _make_row(line: int, path: str, label: str, split: str = "") -> _Row:
    label = str(int(label)) if _WHOLE.fullmatch(label.strip()) else label.strip()
    return _Row(line, os.path.normpath(path).replace(os.sep, "/"), label, split.strip())


def _find_duplicates(rows: Iterable[_Row]) -> Iterator[Fault]:
    first: dict[str, _Row] = {}
    for row in rows:
        earlier = first.setdefault(row.path, row)
        if earlier is not row:
            yield (
                row.line,
                f"{row.path} stands in line {earlier.line} already; remove one of the rows",
            )


def _find_missing(rows: Iterable[_Row], folder: Path) -> Iterator[Fault]:
    for row in rows:
        if not os.path.isfile(folder / row.path):
            yield (
                row.line,
                f"there is no file {row.path} in {folder}; mend the path or remove the row",
            )


def _make_splits(rows: list[_Row]) -> tuple[Files, Files, list[Fault]]:
    """The training and the test images of each class, and the faults of the classes."""
    if not rows:
        return {}, {}, []
    lines: dict[str, int] = {}  # label -> the first line that has it
    for row in rows:
        lines.setdefault(row.label, row.line)
    class_names, faults = _find_classes(lines)
    if not rows[0].split:
        train, test = hold_out(_by_class(rows, class_names))
        if not any(test.values()):
            fault = "no class has two images, so that none can be held out as test; add images"
            faults.append((rows[0].line, fault))
        return train, test, faults
    given = {row.split for row in rows}
    test_split = next((split for split in _TEST_SPLITS if split in given), "test")
    for split in ("train", test_split):
        if split not in given:
            faults.append((rows[-1].line, f'up to here no row has the split "{split}"; add some'))
    train, test = (
        _by_class((row for row in rows if row.split == split), class_names)
        for split in ("train", test_split)
    )
    if "train" in given:
        faults += [
            (line, f'the label "{name}" has no row with the split "train"; add training images')
            for name, line in lines.items()
            if not train[name]
        ]
    return train, test, faults


def _find_classes(lines: Mapping[str, int]) -> tuple[list[str], list[Fault]]:
    """The names of the classes in their order, and what is wrong with them as a whole.

    Args:
        lines: label -> the first line that has it.
    """
    numbers = sorted((label for label in lines if _WHOLE.fullmatch(label)), key=int)
    names = sorted(lines.keys() - set(numbers))
    if names and numbers:
        name, number = (min(labels, key=lines.__getitem__) for labels in (names, numbers))
        fault = (
            f'the label "{name}" is a name, but line {lines[number]} has the number {number}; '
            f'use numbers for all, or names, such as "class {number}"'
        )
        return names + numbers, [(lines[name], fault)]
    gap = next((i for i, number in enumerate(numbers) if int(number) != i), None)
    if gap is not None:
        number = numbers[gap]
        fault = f"there is a label {number} but none {gap}; number the classes from 0 without gaps"
        return numbers, [(lines[number], fault)]
    return names or numbers, []


def _by_class(rows: Iterable[_Row], class_names: Iterable[str]) -> Files:
    classes: Files = {name: [] for name in class_names}
    for row in rows:
        classes[row.label].append(row.path)
    return classes
