"""What RecBole 1.2.1 needs on the NumPy, pandas and torch of today. The only file that changes RecBole.

Each mend says what breaks, where (paths are relative to `recbole/`, lines those of the 1.2.1 wheel), and when it can
go. Names that NumPy and SciPy have taken away are all that is set outside RecBole.
"""

from __future__ import annotations

import csv
import functools
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.sparse import dok_matrix

from .download import ensure_files
from .errors import UserError, perhaps

# Aliases that NumPy 1.24 and 2.0 took away; RecBole writes np.float (evaluator/metrics.py 90, data/interaction.py 31),
# np.bool (metrics.py 287), np.long (model/layers.py 932) and np.str. Can go when RecBole writes the types themselves.
NUMPY_NAMES = {
    "bool": np.bool_,
    "int": np.int_,
    "float": np.float64,
    "complex": np.complex128,
    "object": np.object_,
    "str": np.str_,
    "long": np.int_,
    "unicode": np.str_,
    "float_": np.float64,
    "complex_": np.complex128,
    "unicode_": np.str_,
}

# Cells of a float column that mean "missing". In a token column only the empty cell does.
MISSING_FLOATS = ["", "NA", "N/A", "NaN", "nan", "NULL", "null", "None"]

_applied = False
# What methods have been rewritten to.
_sources: dict[Any, str] = {}


def apply() -> None:
    """Mend RecBole 1.2.1 in this process; a second call does nothing."""
    global _applied
    if _applied:
        return
    # hasattr would make NumPy 1.26 warn of the very names it asks for.
    for name, value in NUMPY_NAMES.items():
        if name not in vars(np):
            setattr(np, name, value)
    # SciPy's dok_matrix is no dict any longer, and RecBole fills it as one (model/general_recommender/lightgcn.py 111,
    # ngcf.py 110, ncl.py 131, gcmc.py 174, spectralcf.py 123, knowledge_aware_recommender/kgin.py 356, mcclk.py 425).
    # Can go when RecBole builds those matrices from coordinates.
    if not hasattr(dok_matrix, "_update"):
        dok_matrix._update = lambda self, entries: self._dict.update(entries)
    _mend_config()
    _mend_interaction()
    _mend_dataset()
    _mend_evaluation()
    _applied = True


def _mend_config() -> None:
    from recbole.config import Config

    # config/configurator.py 625: each Config sets names of NumPy's anew, np.float_ among them, which NumPy 2 lacks.
    # Done above, once. Can go when RecBole drops the method.
    Config.compatibility_settings = lambda self: None


def _mend_interaction() -> None:
    from recbole.data import interaction

    # data/interaction.py 347: np.argsort of a tensor goes through __array_wrap__, whose signature NumPy 2 deprecates,
    # and sorting downwards fails on a negative stride. Can go when RecBole sorts with torch.
    interaction.Interaction.sort = _sort
    # data/interaction.py 32: torch warns of the read-only arrays that pandas 3 hands out. Can go when RecBole copies
    # them.
    convert = interaction._convert_to_tensor
    interaction._convert_to_tensor = lambda data: convert(
        data.copy() if isinstance(data, np.ndarray) and not data.flags.writeable else data
    )


def _mend_dataset() -> None:
    from recbole.data.dataset import Dataset, KnowledgeBasedDataset, SequentialDataset

    # data/dataset/dataset.py 712, 792, 809, 1217, kg_dataset.py 316, sequential_dataset.py 163: Series.agg(len) gives
    # the number of rows on pandas 3, and warns on pandas 2. Can go when RecBole maps.
    for owner, name in (
        (Dataset, "_normalize"),
        (Dataset, "_discretization"),
        (Dataset, "_remap"),
        (KnowledgeBasedDataset, "_reset_ent_remapID"),
        (SequentialDataset, "_benchmark_presets"),
    ):
        _rewrite(owner, name, r"\.agg\(len\)", ".map(len)")
    # dataset.py 359, 827, 834, 853, 864, 922, 926, 939, 1045, 1055, 1065, 1078, 1104, kg_dataset.py 166, 188: pandas
    # 3.1 deprecates `inplace` of methods that copy anyway. Can go when RecBole assigns what they return.
    Dataset._replace_feat = _replace_feat
    for owner, name in (
        (Dataset, "_filter_nan_user_or_item"),
        (Dataset, "_remove_duplication"),
        (Dataset, "_filter_by_inter_num"),
        (Dataset, "_filter_by_field_value"),
        (Dataset, "_filter_inter_by_user_or_item"),
        (Dataset, "_reset_index"),
        (KnowledgeBasedDataset, "_filter_kg_by_triple_num"),
        (KnowledgeBasedDataset, "_filter_link"),
    ):
        _rewrite(owner, name, r"\b(self\.\w+_feat|feat)(\.\w+)\(([^;]*?),\s*inplace=True,?\s*\)", _assigned)
    _rewrite(Dataset, "_load_user_or_item_feat", r"(feat\.drop_duplicates\(.*), inplace=True\)", r"feat = \1)")
    _rewrite(Dataset, "_del_col", r"feat\.drop\(columns=field, inplace=True\)", "del feat[field]")
    # dataset.py 648, 650: fillna(inplace=True) of a column is lost under copy-on-write, 652 names np.float.
    # Can go when RecBole assigns.
    Dataset._fill_nan = _fill_nan
    # dataset.py 427: see the function. Can go when RecBole reads ids as written and names what is wrong with a file.
    Dataset._load_feat = _load_feat
    # dataset.py 853: the sort before duplicates are dropped is not stable, so that of two equal times either may stay.
    # Can go when RecBole names a stable kind.
    _rewrite(Dataset, "_remove_duplication", "ascending=True", 'ascending=True, kind="stable"')
    # dataset.py 2207: times become float32 (a step of 64 s at 1e9) before RecBole sorts by them; sorted here while they
    # are float64, events closer than that keep their order, as every later sort is stable. Can go when RecBole sorts
    # first.
    _precede(Dataset, "_normalize", _sort_by_time)
    # dataset.py 2199: pandas 3 hands out read-only arrays, of which torch warns. Can go when RecBole copies them.
    _rewrite(Dataset, "_dataframe_to_interaction", r"data\[k\]\.values", "data[k].to_numpy(copy=True)")
    # dataset.py 252, 266 and utils/url.py 21: a download ends in barrier() of a group that was never started, and one
    # that breaks off leaves a folder that bars the next. Can go when RecBole moves finished downloads into place.
    _precede(Dataset, "_load_data", _ensure_files)
    Dataset._download = _ensure_files


def _mend_evaluation() -> None:
    import recbole.trainer.trainer
    from recbole.evaluator import Collector

    # evaluator/collector.py 227: .cpu() of a count and of a Counter, so that ItemCoverage, GiniIndex, AveragePopularity
    # and TailPercentage crash. Can go when RecBole asks for tensors first.
    cpu = r"(self\.data_struct\._data_dict\[key\])\.cpu\(\)"
    _rewrite(Collector, "get_data_struct", cpu, r"\1.cpu() if torch.is_tensor(\1) else \1")
    # trainer/trainer.py 115: every Trainer writes to ./log_tensorboard. Can go when the folder is a setting.
    recbole.trainer.trainer.get_tensorboard = lambda logger: NullWriter()


class NullWriter:
    """A tensorboard writer that writes nothing."""

    def add_scalar(self, *args: Any, **kwargs: Any) -> None:
        """Take no notice."""

    def add_hparams(self, *args: Any, **kwargs: Any) -> None:
        """Take no notice."""

    def close(self) -> None:
        """Nothing is open."""


def _rewrite(owner: type, name: str, old: str, new: str | Callable[[re.Match[str]], str]) -> None:
    """Recompile a method of RecBole's with a pattern in its source replaced; it may be rewritten more than once."""
    method = getattr(owner, name)
    source = _sources.get(method) or textwrap.dedent(inspect.getsource(method))
    source, found = re.subn(old, new, source, flags=re.DOTALL)
    if not found:
        raise RuntimeError(f"{owner.__module__}.{owner.__name__}.{name} is not that of RecBole 1.2.1")
    namespace: dict[str, Any] = {}
    first = method.__code__.co_firstlineno
    exec(compile("\n" * (first - 1) + source, method.__code__.co_filename, "exec"), method.__globals__, namespace)
    _sources[namespace[name]] = source
    setattr(owner, name, namespace[name])


def _assigned(match: re.Match[str]) -> str:
    """`feat.drop(rows, inplace=True)` as an assignment."""
    feat, method, arguments = match.groups()
    copy = f"{feat}{method}({arguments})"
    return f"self._replace_feat(feat, {copy})" if feat == "feat" else f"{feat} = {copy}"


def _replace_feat(self: Any, old: pd.DataFrame, new: pd.DataFrame) -> None:
    """Put a table in the place of another among a dataset's."""
    for name in self.feat_name_list:
        if getattr(self, name) is old:
            setattr(self, name, new)


def _precede(owner: type, name: str, action: Callable[[Any], None]) -> None:
    """Have a method of RecBole's begin with `action(self)`."""
    method = getattr(owner, name)

    @functools.wraps(method)
    def mended(self: Any, *args: Any) -> Any:
        action(self)
        return method(self, *args)

    setattr(owner, name, mended)


def _sort(self: Any, by: str | list[str], ascending: bool | list[bool] = True) -> None:
    """Sort an Interaction in place and stably, by one or several of its fields."""
    fields = [by] if isinstance(by, str) else list(by)
    for field in fields:
        if field not in self:
            raise ValueError(f"[{field}] is not exist in interaction [{self}].")
    upwards = [ascending] * len(fields) if isinstance(ascending, bool) else list(ascending)
    if len(upwards) == 1:
        upwards *= len(fields)
    if len(upwards) != len(fields):
        raise ValueError(f"by [{by}] and ascending [{ascending}] should have same length.")
    for field, up in zip(reversed(fields), reversed(upwards), strict=True):
        key = self[field]
        self._reindex(torch.argsort(key if key.dim() == 1 else key[..., 0], stable=True, descending=not up))


def _sort_by_time(dataset: Any) -> None:
    inter_feat, time_field = dataset.inter_feat, dataset.time_field
    # Files of a benchmark are kept as they are, and where the order is random there is none to keep.
    ordered = dataset.benchmark_filename_list is None and dataset.config["eval_args"]["order"] == "TO"
    if ordered and time_field in inter_feat and not inter_feat[time_field].is_monotonic_increasing:
        dataset.inter_feat = inter_feat.sort_values(time_field, kind="stable", ignore_index=True)


def _fill_nan(self: Any) -> None:
    """Missing tokens become 0 (the padding), missing floats the column's mean, missing sequences empty ones."""
    from recbole.utils import FeatureType

    empty = {FeatureType.TOKEN_SEQ: np.array([], dtype=np.int64), FeatureType.FLOAT_SEQ: np.array([], dtype=np.float64)}
    for feat_name in self.feat_name_list:
        feat = getattr(self, feat_name)
        for field in feat:
            column, ftype = feat[field], self.field2type[field]
            if ftype == FeatureType.TOKEN:
                feat[field] = column.fillna(0).astype(np.int64)
            elif ftype == FeatureType.FLOAT:
                feat[field] = column.fillna(column.mean())
            else:
                feat[field] = column.map(lambda x, e=empty[ftype]: e if isinstance(x, float) else x)


def _ensure_files(dataset: Any) -> None:
    ensure_files(dataset.dataset_path, dataset.dataset_name, dataset.benchmark_filename_list)


def _load_feat(self: Any, filepath: str, source: Any) -> pd.DataFrame | None:
    """Read one atomic file: ids as they are written, mistakes told in one line.

    RecBole's own reader takes the ids `NA`, `null` and `nan` for holes, loses rows behind a `"`, fails on a byte-order
    mark, cuts the last character of a header that no line end follows, and drops rows without an id after a warning.

    Raises
    ------
    UserError
        For an empty file, a header that is none, a column that is wanted and not there, a word in a float column, and a
        hole in a column of user or item ids.
    """
    from recbole.utils import FeatureType

    load_col, unload_col = self._get_load_and_unload_col(source)
    if load_col == set():
        return None
    file = _AtomicFile(filepath, self.config["field_separator"], self.config["encoding"])
    fields = {
        field: ftype
        for field, ftype in file.fields.items()
        if (load_col is None or field in load_col) and not (unload_col and field in unload_col)
    }
    ids = _id_fields(self, source)
    _check_columns(self, file, fields, ids, load_col, source)
    if not fields:
        self.logger.warning(f"No columns has been loaded from [{source}]")
        return None
    for field, ftype in fields.items():
        if source != "link":  # its fields are those of other files (dataset.py 471)
            self.field2source[field] = source
            self.field2type[field] = ftype
            if not ftype.value.endswith("seq"):
                self.field2seqlen[field] = 1
            if "float" in ftype.value:
                self.field2bucketnum[field] = 2
    table = file.read(fields)
    for field in ids:
        if table[field].isna().any():
            raise UserError(f"{filepath}: column {field} is empty in {file.where(field, lambda cell: not cell)}")
    for field, ftype in fields.items():
        if ftype == FeatureType.TOKEN_SEQ or ftype == FeatureType.FLOAT_SEQ:
            sequences = file.sequences(table[field], ftype, self.config["seq_separator"])
            length = max(map(len, sequences))
            wanted = (self.config["seq_len"] or {}).get(field)
            if wanted:
                sequences = [sequence[:wanted] for sequence in sequences]
                length = min(length, wanted)
            table[field] = pd.Series(sequences, index=table.index, dtype=object)
            self.field2seqlen[field] = length
    return table


class _AtomicFile:
    """An atomic file of RecBole's: a header of `name:type` cells, then one row a line."""

    def __init__(self, path: str, separator: str, encoding: str | None) -> None:
        from recbole.utils import FeatureType

        self.path, self.separator = path, separator
        self.encoding = encoding if encoding and encoding.lower() not in ("utf-8", "utf8") else "utf-8-sig"
        self.fields: dict[str, Any] = {}
        known = [ftype.value for ftype in FeatureType]
        header = next(self._lines(), (0, []))[1]
        if not any(header):
            raise UserError(f"{path}: the file is empty; a header such as user_id:token<TAB>item_id:token is wanted")
        for cell in header:
            field, colon, ftype = cell.rpartition(":")
            if not colon:
                raise UserError(f"{path}: {cell!r} in the header has no type; {cell}:token, say, is wanted")
            if ftype not in known:
                raise UserError(f"{path}: {cell!r} in the header: the type is one of {', '.join(known)}")
            if field in self.fields:
                raise UserError(f"{path}: the header names {field} twice")
            self.fields[field] = FeatureType(ftype)

    def read(self, fields: dict[str, Any]) -> pd.DataFrame:
        """The columns `fields`: floats as float64, all others as text."""
        from recbole.utils import FeatureType

        cells = {field: f"{field}:{ftype.value}" for field, ftype in fields.items()}
        floats = [field for field, ftype in fields.items() if ftype == FeatureType.FLOAT]
        try:
            table = pd.read_csv(
                self.path,
                sep=self.separator,
                usecols=list(cells.values()),
                dtype={cell: np.float64 if field in floats else str for field, cell in cells.items()},
                encoding=self.encoding,
                # The C reader knows no separators of several characters.
                engine="c" if len(self.separator) == 1 else "python",
                quoting=csv.QUOTE_NONE,
                keep_default_na=False,
                na_values={cell: MISSING_FLOATS if field in floats else [""] for field, cell in cells.items()},
                # A separator at the end of the rows would otherwise make the first column an index.
                index_col=False,
            )
        except UnicodeDecodeError as error:
            raise UserError(f"{self.path}: not written in {self.encoding} ({error}); set `encoding`") from error
        except ValueError:
            for field in floats:
                found = self.where(field, _is_word)
                if found:
                    raise UserError(f"{self.path}: column {field} is float, but {found}") from None
            raise
        if table.empty:
            raise UserError(f"{self.path}: there is a header, but no row below it")
        table.columns = list(fields)
        return table

    def sequences(self, column: pd.Series, ftype: Any, separator: str) -> list[np.ndarray]:
        """The cells of a sequence column, cut at the separator; an empty cell gives an empty sequence."""
        from recbole.utils import FeatureType

        parts = [[part for part in cell.split(separator) if part] for cell in column.fillna("")]
        if ftype == FeatureType.TOKEN_SEQ:
            return [np.array(part) for part in parts]
        try:
            return [np.array(part, dtype=np.float64) for part in parts]
        except ValueError:
            found = self.where(str(column.name), lambda cell: any(map(_is_word, cell.split(separator))))
            raise UserError(f"{self.path}: column {column.name} is float_seq, but {found}") from None

    def where(self, field: str, wrong: Callable[[str], bool]) -> str:
        """The first lines whose cell of `field` is wrong, as words; nothing if none is."""
        at = list(self.fields).index(field)
        rows = islice(self._lines(), 1, None)
        cells = ((number, cells[at] if at < len(cells) else "") for number, cells in rows)
        first = list(islice(((number, cell) for number, cell in cells if wrong(cell)), 4))
        shown = ", ".join(f"line {number}" + (f" has {cell!r}" if cell else "") for number, cell in first[:3])
        return shown + (", and more" if len(first) > 3 else "")

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        """Line number and cells of every line that is not blank."""
        with open(self.path, encoding=self.encoding, errors="replace") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip("\r\n"):
                    yield number, line.rstrip("\r\n").split(self.separator)


def _is_word(cell: str) -> bool:
    if cell.strip() in MISSING_FLOATS:
        return False
    try:
        float(cell)
    except ValueError:
        return True
    return False


def _id_fields(dataset: Any, source: Any) -> list[str]:
    """The columns of a file that may have no holes."""
    from recbole.utils import FeatureSource

    users, items = dataset.uid_field, dataset.iid_field
    fields = {FeatureSource.INTERACTION: [users, items], FeatureSource.USER: [users], FeatureSource.ITEM: [items]}
    return [field for field in fields.get(source, []) if field]


def _check_columns(
    dataset: Any, file: _AtomicFile, fields: dict[str, Any], ids: list[str], load_col: set[str] | None, source: Any
) -> None:
    """Refuse a file that lacks a column that the settings want."""
    from recbole.utils import FeatureSource, FeatureType, ModelType

    config, time_field = dataset.config, dataset.time_field
    sequential = config["MODEL_TYPE"] == ModelType.SEQUENTIAL
    wanted = dict.fromkeys(ids)
    needs_time = False
    if source == FeatureSource.INTERACTION:
        if config["benchmark_filename"] is not None:
            wanted |= dict.fromkeys([dataset.iid_field + config["LIST_SUFFIX"]] if sequential else [])
        elif time_field:
            needs_time = sequential or config["eval_args"]["order"] == "TO"
            wanted |= dict.fromkeys([time_field] if needs_time else [])
    # RecBole's and our defaults name the time field for every model.
    wanted |= dict.fromkeys(sorted((load_col or set()) - (set() if needs_time else {time_field})))
    there = ", ".join(file.fields)
    for field in wanted:
        if field not in file.fields:
            raise UserError(
                f"{file.path}: there is no column {field} (there are: {there}){perhaps(field, file.fields)}"
            )
        if field not in fields:
            raise UserError(f"{file.path}: column {field} is wanted, but load_col or unload_col leaves it out")
    for field in ids:
        if fields[field] != FeatureType.TOKEN:
            raise UserError(f"{file.path}: column {field} is of type {fields[field].value}; {field}:token is wanted")
    if needs_time and fields[time_field] != FeatureType.FLOAT:
        raise UserError(
            f"{file.path}: column {time_field} is of type {fields[time_field].value}; {time_field}:float is wanted"
        )
