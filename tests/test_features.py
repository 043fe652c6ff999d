"""Feature files and stores: every fault of a file or a disk is reported in one sentence that names it."""

import contextlib
import math
import os
import pickle
import resource
import signal
import tempfile
import tracemalloc
import warnings
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mil_workbench.data.bags import pack
from mil_workbench.data.features import join_files, read_features, read_in_place
from mil_workbench.data.manifests import cohort_from_manifest
from mil_workbench.data.shards import source_key
from mil_workbench.data.stores import InstanceStore
from mil_workbench.files import InputError

VALUES = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
CORNERS = np.arange(12).reshape(6, 2) * 256
GOOD = {}  # name of a file -> a function that writes VALUES to a path
BAD = {}  # name of a file -> a function that writes a bad file, and a part of the error message


def good(name):
    return lambda write: GOOD.__setitem__(name, write)


def bad(name, message):
    return lambda write: BAD.__setitem__(name, (write, message))


def hdf5(**datasets):
    def write(path):
        with h5py.File(path, "w") as file:
            for name, content in datasets.items():
                file[name] = content

    return write


def declared(name, shape, kind="f4", **options):
    "Write an HDF5 file with a dataset that nothing was written to."

    def write(path):
        with h5py.File(path, "w") as file:
            file["features"] = VALUES
            if name == "features":
                del file["features"]
            file.create_dataset(name, shape, kind, **options)

    return write


def saved(array, times=1, version=None):
    def write(path):
        with open(path, "wb") as file, warnings.catch_warnings(action="ignore"):
            for _ in range(times):
                np.lib.format.write_array(file, np.asanyarray(array), version=version)

    return write


def zipped(**arrays):
    def write(path):
        with open(path, "wb") as file:
            np.savez(file, **arrays)

    return write


def torched(content, **options):
    return lambda path: torch.save(content, path, **options)


def raw(content):
    return lambda path: path.write_bytes(content)


def part(write, share):
    "Write the first `share` of the bytes that `write` writes, as a job that was killed leaves them."

    def write_part(path):
        write(path)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    return write_part


def header(shape, kind="<f4", order="False"):
    "Return the header of a NumPy file that declares `shape`, with nothing after it."
    text = f"{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def packed(member, content, deflate=False):
    def write(path):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED) as archive:
            archive.writestr(member, content)

    return write


# Good files: read by content, whatever the ending, its capitals, and the layout of the numbers

good("plain.npy")(saved(VALUES))
good("CAPITALS.NPY")(saved(VALUES))
good("double.npy")(saved(VALUES.astype("f8")))
good("big-endian.npy")(saved(VALUES.astype(">f4")))
good("fortran.npy")(saved(np.asfortranarray(VALUES)))
good("backwards.npy")(saved(VALUES[::-1].copy()[::-1]))
good("batch.npy")(saved(VALUES[None]))
good("version2.npy")(saved(VALUES, version=(2, 0)))
good("version3.npy")(saved(VALUES, version=(3, 0)))
good("features.npz")(zipped(features=VALUES, coords=CORNERS))
good("feats.NpZ")(zipped(feats=VALUES, names=np.array(["a"] * 6)))
good("only.npz")(zipped(arr_0=VALUES))
good("npz_called.npy")(zipped(embeddings=VALUES))
good("npy_called.npz")(saved(VALUES))
good("npy_called.pt")(saved(VALUES))
good("hdf5_called.npy")(hdf5(features=VALUES))
good("hdf5_called.pth")(hdf5(features=VALUES))
good("torch_called.h5")(torched(torch.from_numpy(VALUES)))
good("torch_called.npz")(torched(torch.from_numpy(VALUES)))
good("plain.h5")(hdf5(features=VALUES, coords=CORNERS))
good("PLAIN.H5")(hdf5(feats=VALUES))
good("plain.hdf5")(hdf5(embeddings=VALUES))
good("only.Hdf5")(hdf5(vectors=VALUES, coords=CORNERS))
good("big-endian.h5")(hdf5(features=VALUES.astype(">f8"), coords=CORNERS.astype(">i2")))
good("batch.h5")(hdf5(features=VALUES[None], coords=CORNERS))
good("unsigned_places.h5")(hdf5(features=VALUES, coords=CORNERS.astype("u8")))
good("with_groups.h5")(hdf5(features=VALUES, **{"annotations/note": 3}))
good("plain.pt")(torched(torch.from_numpy(VALUES)))
good("plain.PTH")(torched(torch.from_numpy(VALUES)))
good("old.pt")(torched(torch.from_numpy(VALUES), _use_new_zipfile_serialization=False))
good("parameter.pt")(torched(torch.nn.Parameter(torch.from_numpy(VALUES))))
good("gradient.pt")(torched(torch.from_numpy(VALUES).requires_grad_()))
good("sparse.pt")(torched(torch.from_numpy(VALUES).to_sparse()))
good("rows.pt")(lambda path: torch.save(torch.from_numpy(VALUES).to_sparse_csr(), path))
good("dictionary.pt")(
    torched({"feats": torch.from_numpy(VALUES), "coords": torch.from_numpy(CORNERS), "epoch": 3, "slide": "a"})
)
good("only.pt")(torched({"x": torch.from_numpy(VALUES)}))
good("view.pt")(torched(torch.from_numpy(np.repeat(VALUES, 2, axis=0))[::2]))
good("turned.pt")(torched(torch.from_numpy(VALUES.T.copy()).T))


@good("compressed.h5")
def _(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=VALUES, chunks=(2, 4), compression="gzip", shuffle=True, fletcher32=True)


@good("grown.h5")
def _(path):
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("features", (1, 4), "f4", maxshape=(None, 4), chunks=(1, 4))
        for row in range(6):
            dataset.resize(row + 1, axis=0)
            dataset[row] = VALUES[row]


@good("soft_links.h5")
def _(path):
    with h5py.File(path, "w") as file:
        file["run/level0"] = VALUES
        file["run/latest"] = h5py.SoftLink("level0")
        file["features"] = h5py.SoftLink("/run/./latest")


@good("user_block.h5")
def _(path):
    with h5py.File(path, "w", userblock_size=512) as file:
        file["features"] = VALUES


@good("linked_file.npy")
def _(path):
    saved(VALUES)(path.with_name("target.npy"))
    path.symlink_to("target.npy")


# Not a file of features

bad("missing.npy", "no such file")(lambda path: None)
bad("weights.csv", "features are read from")(raw(b"1,2\n"))
bad("no_ending", "features are read from")(saved(VALUES))
bad("dangling.npy", "is a link to gone.npy, which is not there")(lambda path: path.symlink_to("gone.npy"))
bad("circle.npy", "cannot be read")(lambda path: path.symlink_to(path.name))
bad("folder.npy", "is a folder")(lambda path: path.mkdir())
bad("pipe.npy", "is a pipe, a socket or a device")(lambda path: os.mkfifo(path))
bad("pipe.h5", "is a pipe, a socket or a device")(lambda path: os.mkfifo(path))
bad("device.pt", "is a pipe, a socket or a device")(lambda path: path.symlink_to("/dev/zero"))
bad("zero.h5", "is an empty file (0 bytes)")(raw(b""))
bad("zeros.npy", "is no NumPy, HDF5 or torch file")(raw(b"\0" * 4096))
bad("text.h5", "is no NumPy, HDF5 or torch file")(raw(b"0.1 0.2\n0.3 0.4\n"))
bad("pointer.pt", "is a pointer of Git LFS")(raw(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"))
bad("page.h5", "is a web page")(raw(b"<!DOCTYPE html><title>Sign in</title>"))
bad("gzip.npy", "is compressed by gzip")(raw(b"\x1f\x8b\x08\0" + b"\0" * 30))
bad("matlab.h5", "is a MATLAB file")(raw(b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n"))
bad("pickle.pt", "is a pickle, and reading it could run code")(raw(pickle.dumps(VALUES)))
bad("archive.npz", "is a zip archive without a NumPy array")(packed("readme.txt", "hello"))
bad("tiny.npz", "cannot be read")(raw(b"PK\x05\x06" + b"\0" * 5))

# Cut short, or other than the header declares

bad("cut_in_head.npy", "cannot be read")(part(saved(VALUES), 0.3))
bad("cut.npy", "it is cut short")(part(saved(VALUES), 0.9))
bad("cut.npz", "cannot be read")(part(zipped(features=VALUES), 0.7))
bad("cut.h5", "cannot be read")(part(hdf5(features=VALUES), 0.6))
bad("cut.pt", "cannot be read")(part(torched(torch.from_numpy(VALUES)), 0.5))
bad("cut_old.pt", "")(part(torched(torch.from_numpy(VALUES), _use_new_zipfile_serialization=False), 0.6))
bad("appended.npy", "more than one array was written into it")(saved(VALUES, times=2))
bad("huge.npy", "it is cut short")(raw(header((10**9, 10**6))))
bad("beyond_words.npy", "it is cut short")(raw(header((2**62, 2**62))))
bad("negative.npy", "")(raw(header((-4, -6)) + VALUES.tobytes()))
bad("wordy.npy", "cannot be read")(raw(header(("4", 6))))
bad("code.npy", "cannot be read")(raw(header("__import__('os').getcwd()")))
bad("future.npy", "cannot be read")(raw(b"\x93NUMPY\x09\x00" + header((6, 4))[8:] + VALUES.tobytes()))
bad("huge.npz", "it is cut short")(packed("features.npy", header((10**9, 10**6))))
bad("not_an_array.npz", "cannot be read")(packed("features.npy", b"hello"))
bad("promises.h5", "GiB of memory")(declared("features", (10**7, 10**7), chunks=(1000, 1000), compression="gzip"))
bad("endless.h5", "GiB of memory")(declared("features", (2**40, 2**20)))
bad("places_promise.h5", "GiB of memory")(declared("coords", (2**50, 2), chunks=(64, 2)))
bad("expanded.pt", "GiB of memory")(torched(torch.zeros(1, 1).expand(10**7, 10**6)))
bad("sparse_matrix.pt", "GiB of memory")(
    lambda path: torch.save(torch.sparse_coo_tensor([[0], [0]], [1.0], (10**7, 10**6)), path)
)
bad("unwritten.h5", "1 of 1 blocks of features were never written")(declared("features", (6, 4)))


@bad("altered.npz", "cannot be read")
def _(path):
    zipped(features=VALUES)(path)
    content = bytearray(path.read_bytes())
    content[200] ^= 255
    path.write_bytes(content)


@bad("altered.h5", "cannot be read")
def _(path):
    with h5py.File(path, "w") as file:
        place = (
            file.create_dataset("features", data=VALUES, chunks=(6, 4), fletcher32=True)
            .id.get_chunk_info(0)
            .byte_offset
        )
    content = bytearray(path.read_bytes())
    content[place] ^= 255
    path.write_bytes(content)


@bad("half_written.h5", "2 of 3 blocks of features were never written")
def _(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("features", (6, 4), "f4", chunks=(2, 4))[:2] = VALUES[:2]


@bad("locked.npz", "cannot be read")
def _(path):
    zipped(features=VALUES)(path)
    content = bytearray(path.read_bytes())
    content[6] |= 1  # says that it is encrypted
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)


# Numbers in other files

SECRET = np.random.default_rng(1).normal(size=(6, 4))


def beside(path):
    hdf5(features=SECRET, coords=SECRET, instance_labels=SECRET[:, 0], **{"inner/features": SECRET})(
        path.with_name("secret.h5")
    )
    SECRET.tofile(path.with_name("secret.bin"))


for array in ("features", "coords", "instance_labels"):
    shape = (6,) if array == "instance_labels" else (6, 4)

    def reach(path, array=array, shape=shape, way="external"):
        beside(path)
        with h5py.File(path, "w") as file:
            if array != "features":
                file["features"] = VALUES
            if way == "external":
                file[array] = h5py.ExternalLink("secret.h5", array)
            elif way == "pipe":
                os.mkfifo(path.with_name("pipe"))
                file[array] = h5py.ExternalLink("pipe", array)
            elif way == "soft":
                file["group/within"] = h5py.ExternalLink("secret.h5", array)
                file[array] = h5py.SoftLink("/group/within")
            elif way == "folder":
                file["group/whole"] = h5py.ExternalLink("secret.h5", "/inner")
                file[array] = h5py.SoftLink("group/whole/features")
            elif way == "raw":
                file.create_dataset(array, shape, "f8", external=[("secret.bin", 0, h5py.h5f.UNLIMITED)])
            elif way == "soft_raw":
                file.create_dataset("group/raw", shape, "f8", external=[("secret.bin", 0, h5py.h5f.UNLIMITED)])
                file[array] = h5py.SoftLink("/group/raw")
            else:
                layout = h5py.VirtualLayout(shape, "f8")
                layout[:] = h5py.VirtualSource("secret.h5", array, shape)
                file.create_virtual_dataset(array, layout)

    for way in ("external", "pipe", "soft", "folder", "raw", "soft_raw", "virtual"):
        is_link = way in ("external", "pipe", "soft", "folder")
        message = f"{array} is a link into another file" if is_link else f"the numbers of {array} lie in other files"
        bad(f"{way}_{array}.h5", message)(lambda path, reach=reach, way=way: reach(path, way=way))

bad("dangling.h5", "features is a link that leads nowhere")(hdf5(features=h5py.SoftLink("/gone")))
bad("circle.h5", "features is a link that leads nowhere")(
    hdf5(features=h5py.SoftLink("/more"), more=h5py.SoftLink("/features"))
)
bad("through.h5", "features is a link that leads nowhere")(hdf5(features=h5py.SoftLink("/coords/x"), coords=CORNERS))
bad("gone.h5", "features is a link into another file, nowhere.h5")(
    hdf5(features=h5py.ExternalLink("nowhere.h5", "/features"))
)

# Could run code


class Evil:
    def __reduce__(self):
        return os.mkdir, ("this-ran",)


bad("evil.pt", "could run code")(torched({"features": Evil()}))
bad("evil_old.pt", "could run code")(torched(Evil(), _use_new_zipfile_serialization=False))
bad("evil.npy", "could run code")(saved(np.array([Evil()], dtype=object)))
bad("evil.npz", "could run code")(zipped(features=np.array([Evil()], dtype=object)))
bad("module.pt", "could run code")(torched(torch.nn.Linear(4, 6)))
bad("numpy_inside.pt", "could run code")(torched({"features": VALUES}))

# Not clear which array it is

bad("group.h5", "features is a group")(hdf5(**{"features/level0": VALUES}))
bad("nothing.h5", "holds nothing: no features")(hdf5())
bad("places_only.h5", "holds coords: no features")(hdf5(coords=CORNERS))
bad("both.h5", "it is not clear which of them are the features")(hdf5(features=VALUES, feats=VALUES))
bad("several.npz", "it is not clear which of them are the features")(zipped(a=VALUES, b=VALUES))
bad("model.pt", "it is not clear which of them are the features")(torched(torch.nn.Linear(4, 6).state_dict()))
bad("list.pt", "holds a list, not the tensor of features")(torched([torch.from_numpy(VALUES)]))
bad("number.pt", "holds a int, not the tensor of features")(torched(3))
bad("no_tensor.pt", "holds a dict, not the tensor of features")(torched({"features": "none"}))
bad("value.h5", "features is without a value")(hdf5(features=h5py.Empty("f4")))
bad("type.h5", "features is")(hdf5(features=np.dtype("f4")))

# Numbers that cannot be features

for name, values in {
    "one": VALUES[0, 0],
    "cube": VALUES.reshape(2, 3, 4),
    "four_axes": VALUES[None, None],
    "no_width": VALUES[:, :0],
    "switches": VALUES > 0,
}.items():
    for ending, write in {
        "npy": saved(values),
        "h5": hdf5(features=values),
        "pt": torched(torch.from_numpy(np.array(values))),
        "npz": zipped(features=values),
    }.items():
        bad(f"{name}.{ending}", "features must be numbers of shape (instances, width)")(write)
for name, values in {
    "complex": VALUES + 1j,
    "words": VALUES.astype("S8"),
    "letters": VALUES.astype("U8"),
    "dates": VALUES.astype("M8[s]"),
    "pairs": np.zeros(6, "f4,f4"),
}.items():
    bad(f"{name}.npy", "its array must be numbers, not")(saved(values))
bad("complex.h5", "features must be numbers, not complex64")(hdf5(features=VALUES + 1j))
bad("complex.pt", "features must be numbers, not torch.complex64")(torched(torch.from_numpy(VALUES + 1j)))
bad("words.h5", "features must be numbers, not object")(hdf5(features=["a"] * 6))
bad("pairs.h5", "features must be numbers, not")(hdf5(features=np.zeros(6, "f4,f4")))
bad("none.npy", "holds no instance")(saved(VALUES[:0]))
bad("none.h5", "holds no instance")(hdf5(features=VALUES[:0]))
bad("none.pt", "holds no instance")(torched(torch.zeros(0, 4)))
for name, number in {"nan": np.nan, "infinite": np.inf, "minus_infinite": -np.inf}.items():
    bad(f"{name}.npy", "1 of 6 instances are not finite (NaN or infinite), first row 2")(
        saved(np.where(np.arange(6)[:, None] == 2, number, VALUES))
    )
bad("nan.pt", "6 of 6 instances are not finite (NaN or infinite), first row 0")(
    torched(torch.full((6, 4), torch.nan).bfloat16())
)
bad("beyond.npy", "6 of 6 instances hold numbers beyond 3.4e38, too large for float32")(
    saved(VALUES.astype("f8") * 1e200)
)
bad("beyond.h5", "too large for float32")(hdf5(features=VALUES.astype("f8") * 1e200))
bad("beyond.pt", "too large for float32")(torched(torch.from_numpy(VALUES.astype("f8") * 1e200)))
bad("beyond_long.npy", "too large for float32")(saved(VALUES.astype(np.longdouble) * 1e200))
for kind in ("i4", "u4", "i8", ">u8"):
    bad(f"whole_{kind.strip('>')}.npy", "whole numbers beyond 2^24, which float32 would round")(
        saved(np.full((6, 4), 2**24 + 1, kind))
    )
bad("whole_minus.npy", "whole numbers beyond 2^24")(saved(np.full((6, 4), -(2**63), "i8")))

# Coordinates and labels that do not fit

bad("number_each.h5", "features must be numbers of shape (instances, width), not float32 (6,)")(
    hdf5(features=VALUES[:, 0], coords=CORNERS)
)
bad("few_places.h5", "6 instances but 5 coords")(hdf5(features=VALUES, coords=CORNERS[:5]))
bad("turned_places.h5", "6 instances but 2 coords")(hdf5(features=VALUES, coords=CORNERS.T))
bad("deep_places.h5", "coords must have the shape (instances, coordinates), not (6, 2, 2)")(
    hdf5(features=VALUES, coords=np.zeros((6, 2, 2)))
)
bad("no_places.h5", "coords must have the shape")(hdf5(features=VALUES, coords=np.zeros((6, 0))))
bad("one_place.h5", "coords must have the shape")(hdf5(features=VALUES, coords=3.0))
bad("far_places.h5", "1 of 6 coords are not finite (NaN or infinite), first row 3")(
    hdf5(features=VALUES, coords=np.where(np.arange(6)[:, None] == 3, np.inf, CORNERS))
)
bad("rounded_places.h5", "coords hold whole numbers beyond 2^53")(
    hdf5(features=VALUES, coords=np.full((6, 2), 2**64 - 1, "u8"))
)
bad("named_places.h5", "coords must be numbers")(hdf5(features=VALUES, coords=np.array(["1_2"] * 6, "S3")))
bad("unwritten_places.h5", "blocks of coords were never written")(declared("coords", (6, 2)))
bad("unknown_labels.h5", "1 of 6 instance_labels are not finite")(
    hdf5(features=VALUES, instance_labels=[0, 1, 0, 1, np.nan, 0])
)
bad("one_hot.h5", "instance_labels must have the shape (instances,), not (6, 2)")(
    hdf5(features=VALUES, instance_labels=np.eye(2)[[0, 1] * 3])
)
bad("worded_labels.h5", "instance_labels must be numbers")(hdf5(features=VALUES, instance_labels=["tumour"] * 6))


@pytest.mark.filterwarnings("ignore")  # torch's, about sparse tensors
@pytest.mark.parametrize("name", GOOD)
def test_file_is_read_as_what_it_is(name, tmp_path):
    GOOD[name](tmp_path / name)
    arrays = read_features(tmp_path / name)
    assert arrays["instances"].dtype == np.float32 and np.array_equal(arrays["instances"], VALUES)
    assert np.array_equal(arrays.get("coords", CORNERS), CORNERS)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BAD)
def test_bad_file_is_named_in_one_sentence(name, tmp_path, monkeypatch):
    write, message = BAD[name]
    monkeypatch.chdir(tmp_path)
    write(tmp_path / name)
    with pytest.raises(InputError) as caught:
        read_features(tmp_path / name)
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / name}: ") and message in text
    assert "\n" not in text and len(text) < 600
    assert not (tmp_path / "this-ran").exists()


def test_there_are_many_bad_files():
    assert len(BAD) >= 60


def compressed_blocks(path):
    "Write a gibibyte of zeros in a megabyte."
    block = zlib.compress(bytes(2**24))
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("features", (2**18, 2**10), "f4", chunks=(2**12, 2**10), compression="gzip")
        for i in range(64):
            dataset.id.write_direct_chunk((i * 2**12, 0), block)


def with_length(path, member, content, length):
    "Write a zip archive whose directory declares that its member unpacks to `length` bytes."
    packed(member, content, deflate=True)(path)
    archive = bytearray(path.read_bytes())
    place = archive.rindex(b"PK\x01\x02") + 24
    archive[place : place + 4] = length.to_bytes(4, "little")
    path.write_bytes(archive)


@pytest.mark.parametrize(
    ("name", "write"),
    {
        "bomb.h5": compressed_blocks,
        "bomb.npz": lambda path: with_length(path, "features.npy", header((2**14, 2**14)), 2**30 + 128),
        "bomb.pt": lambda path: with_length(path, "archive/data.pkl", b"", 2**30),
        "expanded.pt": torched(torch.zeros(1, 2**10).expand(2**20, 2**10)),
    }.items(),
)
def test_declared_size_is_checked_before_memory_is_taken(name, write, tmp_path, monkeypatch):
    write(tmp_path / name)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=2**50))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="measured features cannot be compressed so much"):
            read_features(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["plain.npy", "features.npz", "plain.h5", "plain.pt", "old.pt", "sparse.pt"])
def test_file_larger_than_memory_is_not_read(name, tmp_path, monkeypatch):
    GOOD[name](tmp_path / name)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=100))
    with pytest.raises(InputError, match=f"{name}: .* GiB of memory, but 0.0 GiB are free"):
        read_features(tmp_path / name)


def test_memory_error_while_reading_names_the_file(tmp_path, monkeypatch):
    GOOD["plain.h5"](tmp_path / "plain.h5")
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(InputError, match="plain.h5: reading it takes more memory than there is"):
        read_features(tmp_path / "plain.h5")


@contextlib.contextmanager
def as_nobody():
    "Run the block as another user, since root may read everything."
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_file_that_may_not_be_read_is_named(what):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "of somebody else"
        folder.mkdir()
        Path(name).chmod(0o755)
        for path in (folder / "a.npy", folder / "a.h5", folder / "a.pt"):
            GOOD[f"plain{path.suffix}"](path)
            path.chmod(0o000 if what == "file" else 0o644)
            folder.chmod(0o755 if what == "file" else 0o000)
            with as_nobody(), pytest.raises(InputError, match=f"{path}: cannot be read .*Permission denied"):
                read_features(path)
            folder.chmod(0o755)


# Any layout gives the same numbers, and any damage an error of one sentence

NUMBERS = (
    hnp.integer_dtypes(endianness="?")
    | hnp.unsigned_integer_dtypes(endianness="?")
    | hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64))
)


@st.composite
def slides(draw):
    "Draw features, coordinates and labels, and the same in a layout that some tool may have written."
    n, width, k = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    array = lambda *shape: np.array(
        draw(st.lists(st.integers(0, 100), min_size=math.prod(shape), max_size=math.prod(shape)))
    ).reshape(shape)
    content = {"features": array(n, width), "coords": array(n, k), "instance_labels": array(n)}
    lead = lambda values: values[None] if draw(st.booleans()) else values
    laid_out = {
        name: lead(values.astype(draw(NUMBERS), order=draw(st.sampled_from("CF")))) for name, values in content.items()
    }
    if k == 1 and draw(st.booleans()):
        laid_out["coords"] = laid_out["coords"].reshape(laid_out["coords"].shape[:-1])
    return content, laid_out


@settings(max_examples=60, deadline=None)
@given(slides(), st.sampled_from(["h5", "HDF5", "npz", "Pt"]))
def test_same_numbers_in_any_layout_are_read_alike(slide, ending):
    content, laid_out = slide
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"slide.{ending}"
        if ending == "Pt":
            torch.save(
                {
                    name: torch.from_numpy(values.astype(values.dtype.newbyteorder("=")))
                    for name, values in laid_out.items()
                },
                path,
            )
        else:
            (zipped if ending == "npz" else hdf5)(**laid_out)(path)
        arrays = read_features(path)
    assert {name: values.dtype for name, values in arrays.items()} == {
        "instances": np.float32,
        "coords": np.float64,
        "instance_labels": np.float64,
    }
    for name, values in content.items():
        assert np.array_equal(arrays["instances" if name == "features" else name], values)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["plain.npy", "features.npz", "plain.h5", "compressed.h5", "dictionary.pt", "old.pt", "sparse.pt"]),
    st.data(),
)
def test_damaged_file_is_named_or_read_as_finite_numbers(name, data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        GOOD[name](path)
        content = bytearray(path.read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            del content[place : place + data.draw(st.integers(1, len(content)))]
        else:
            new = data.draw(st.binary(min_size=1, max_size=8))
            content[place : place + len(new)] = new
        path.write_bytes(content)
        try:
            assert np.isfinite(read_features(path)["instances"]).all()
        except InputError as error:
            assert str(error).startswith(f"{path}: ")


# The files of a case


@pytest.mark.parametrize(
    ("first", "second"),
    [("i4", "u4"), ("u2", "i8"), ("u8", "f4"), (">i4", "<i4"), (">f8", "u1"), ("f2", "f8"), ("i1", "u8")],
)
def test_coordinates_of_mixed_kinds_join(first, second, tmp_path):
    places = CORNERS // 256
    for name, kind in (("1.h5", first), ("2.h5", second)):
        hdf5(features=VALUES, coords=places.astype(kind), instance_labels=(places[:, 0] > 3).astype(kind))(
            tmp_path / name
        )
    files = {name: read_features(tmp_path / name) for name in ("1.h5", "2.h5")}
    for array in ("coords", "instance_labels"):
        joined = join_files(
            "c1", name=array, parts={name: torch.from_numpy(arrays[array]) for name, arrays in files.items()}
        )
        expected = places if array == "coords" else places[:, 0] > 3
        assert np.array_equal(joined.numpy(), np.concatenate([expected, expected]))


@pytest.mark.parametrize(("first", "second"), [((6, 2), (6, 3)), ((6, 2), (6,)), ((6,), (6, 3)), ((1, 6, 2), (6, 3))])
def test_coordinates_of_other_widths_are_named(first, second, tmp_path):
    for name, shape in (("1.h5", first), ("2.h5", second)):
        hdf5(features=VALUES, coords=np.zeros(shape))(tmp_path / name)
    parts = {name: torch.from_numpy(read_features(tmp_path / name)["coords"]) for name in ("1.h5", "2.h5")}
    with pytest.raises(InputError, match=r"case c1: coords has the shape \(6, \d\) in 2.h5, but \(6, \d\) in 1.h5"):
        join_files("c1", name="coords", parts=parts)


def manifest_of(folder, files):
    "Write a manifest of cases c0, c1, ... of two classes in turn, each with its list of files."
    rows = [f"c{i},p{i},{('benign', 'malignant')[i % 2]},{file}" for i, case in enumerate(files) for file in case]
    (folder / "m.csv").write_text("\n".join(["case_id,patient_id,label,file", *rows]))
    return folder / "m.csv"


@pytest.mark.filterwarnings("ignore")
def test_bad_files_are_left_out_by_name_and_the_others_are_kept(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # files called pipe_… share a pipe
    names = [
        name for name in BAD if Path(name).suffix in (".npy", ".h5", ".pt", ".npz") and not name.startswith("pipe_")
    ]
    for name in names:
        BAD[name][0](tmp_path / name)
    for i in range(4):
        saved(VALUES + i)(tmp_path / f"good{i}.npy")
    files = [[f"good{i}.npy"] for i in range(4)] + [[name] for name in names]
    cohort = cohort_from_manifest(manifest_of(tmp_path, files), tmp_path / "store")
    assert [bag.id for bag in cohort.bags] == ["c0", "c1", "c2", "c3"]
    assert all(np.array_equal(bag.instances.read().numpy(), VALUES + i) for i, bag in enumerate(cohort.bags))
    output = capsys.readouterr().out
    assert all(f"left out: case c{i}: " in output and f"{tmp_path / name}" in output for i, name in enumerate(names, 4))


def test_files_of_a_case_whose_coordinates_differ_are_named(tmp_path, capsys):
    for name, coords in {
        "1": CORNERS.astype("i4"),
        "2": CORNERS.astype("u4"),
        "3": np.zeros((6, 3)),
        "4": CORNERS[:, 0],
    }.items():
        hdf5(features=VALUES, coords=coords)(tmp_path / f"{name}.h5")
        hdf5(features=VALUES, coords=coords)(tmp_path / f"{name}again.h5")
    files = [["1.h5", "2.h5"], ["3.h5"], ["4.h5"], ["1again.h5", "3again.h5"], ["2again.h5", "4again.h5"]]
    cohort = cohort_from_manifest(manifest_of(tmp_path, files), tmp_path / "store")
    assert {bag.id: tuple(bag.coords.shape) for bag in cohort.bags} == {"c0": (12, 2), "c1": (6, 3), "c2": (6, 1)}
    assert np.array_equal(cohort.bags[0].coords.numpy(), np.concatenate([CORNERS, CORNERS]))
    output = capsys.readouterr().out
    assert (
        f"left out: case c3: coords has the shape (6, 3) in {tmp_path}/3again.h5, but (6, 2) in {tmp_path}/1again.h5"
        in output
    )
    assert output.count("left out: case c4: ") == 1


def test_full_disk_is_reported_as_a_fault_of_the_store(tmp_path):
    for i in range(4):
        saved(np.ones((2**12, 4)))(tmp_path / f"{i}.npy")  # float64, which is copied
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, limits[1]))
    try:
        with pytest.raises(InputError, match=f"^{tmp_path / 'store'}: cannot be written to"):
            cohort_from_manifest(manifest_of(tmp_path, [[f"{i}.npy"] for i in range(4)]), tmp_path / "store")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


# Files that are read where they lie


def copied_bytes(store: Path) -> int:
    return sum(path.stat().st_size for path in store.iterdir() if path.suffix in (".npy", ".arrays"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", GOOD)
def test_a_cohort_reads_the_numbers_of_each_file_as_they_are(name, tmp_path):
    for i in range(2):
        (tmp_path / str(i)).mkdir()
        GOOD[name](tmp_path / str(i) / name)
    store = tmp_path / "store"
    cohort = cohort_from_manifest(manifest_of(tmp_path, [[f"0/{name}"], [f"1/{name}"]]), store)
    again = cohort_from_manifest(tmp_path / "m.csv", store)
    for bag in (*cohort.bags, *again.bags):
        read = bag.instances.read()
        assert read.dtype == torch.float32 and np.array_equal(read.numpy(), VALUES)
        assert bag.coords is None or (bag.coords.dtype == torch.float64 and np.array_equal(bag.coords, CORNERS))
    arrays, in_place = read_in_place(tmp_path / "0" / name)
    assert copied_bytes(store) == 0 or len(in_place) < len(arrays)
    if "instances" in in_place:
        assert arrays["instances"].dtype in (np.float16, np.float32)


@pytest.mark.parametrize("ending", ["npy", "npz", "h5", "pt"])
def test_float16_lies_where_it_is_and_comes_out_as_float32(ending, tmp_path):
    half = np.random.default_rng(1).normal(size=(40, 7)).astype(np.float16)
    write = {
        "npy": lambda path: np.save(path, half),
        "npz": lambda path: np.savez(path, features=half),
        "h5": lambda path: hdf5(features=half)(path),
        "pt": lambda path: torch.save(torch.from_numpy(half), path),
    }[ending]
    for i in range(2):
        write(tmp_path / f"{i}.{ending}")
    cohort = cohort_from_manifest(manifest_of(tmp_path, [[f"0.{ending}"], [f"1.{ending}"]]), tmp_path / "store")
    assert copied_bytes(tmp_path / "store") == 0
    batch = pack(cohort.bags)
    assert np.array_equal(batch.instances.read().numpy(), np.concatenate([half, half]).astype(np.float32))
    rows = torch.tensor([79, 3, 3, 41])
    assert np.array_equal(batch.instances.read(rows).numpy(), np.concatenate([half, half])[rows].astype(np.float32))
    assert np.array_equal(pickle.loads(pickle.dumps(cohort.bags[1])).instances.read().numpy(), half.astype(np.float32))


def test_a_file_that_changes_after_the_start_is_named(tmp_path):
    for i in range(2):
        np.save(tmp_path / f"{i}.npy", VALUES + i)
    cohort = cohort_from_manifest(manifest_of(tmp_path, [["0.npy"], ["1.npy"]]), tmp_path / "store")
    assert np.array_equal(cohort.bags[0].instances.read(), VALUES)
    for i in range(2):  # one that has been read before, and one that has not
        np.save(tmp_path / f"{i}.npy", VALUES[:3])
        with pytest.raises(InputError, match=f"^{tmp_path}/{i}.npy: has changed since it was checked; start again"):
            cohort.bags[i].instances.read()
    again = cohort_from_manifest(tmp_path / "m.csv", tmp_path / "store")
    assert [len(bag) for bag in again.bags] == [3, 3]
    (tmp_path / "1.npy").unlink()
    with pytest.raises(InputError, match=f"^{tmp_path}/1.npy: cannot be read"):
        again.bags[1].instances.read()


def test_a_store_of_copies_is_used_as_it_is(tmp_path):
    for i in range(2):
        np.save(tmp_path / f"{i}.npy", VALUES + i)
    store, manifest = InstanceStore(tmp_path / "store"), manifest_of(tmp_path, [["0.npy"], ["1.npy"]])
    for i in range(2):  # as versions before this one have written it
        file = str(tmp_path / f"{i}.npy")
        store.write(file, source_key(file, settings={"as": "float32", "version": 2}), VALUES + i)
    store.finish()
    before = {path.name: path.stat().st_mtime_ns for path in store.folder.iterdir()}
    cohort = cohort_from_manifest(manifest, store.folder)
    assert {path.name: path.stat().st_mtime_ns for path in store.folder.iterdir()} == before
    assert all(np.array_equal(bag.instances.read(), VALUES + i) for i, bag in enumerate(cohort.bags))


def test_float16_in_chunks_is_copied_as_it_is(tmp_path):
    half = np.random.default_rng(2).normal(size=(64, 32)).astype(np.float16)
    for i in range(2):
        with h5py.File(tmp_path / f"{i}.h5", "w") as file:
            file.create_dataset("features", data=half + i, chunks=(8, 32), compression="gzip")
    cohort = cohort_from_manifest(manifest_of(tmp_path, [["0.h5"], ["1.h5"]]), tmp_path / "store")
    assert copied_bytes(tmp_path / "store") == 2 * half.nbytes
    expected = np.concatenate([half, half + np.float16(1)]).astype(np.float32)
    assert pack(cohort.bags).instances.read().numpy().tobytes() == expected.tobytes()


# The store


@pytest.mark.parametrize("survived", range(7))
def test_a_killed_reader_of_files_loses_no_more_than_a_group(survived, tmp_path, monkeypatch):
    for i in range(8):
        np.save(tmp_path / f"{i}.npy", VALUES.astype("f8") + i)  # float64, which is copied
    manifest, store = manifest_of(tmp_path, [[f"{i}.npy"] for i in range(8)]), tmp_path / "store"
    monkeypatch.setattr(InstanceStore, "GROUP_SHARDS", 3)
    child = os.fork()
    if child == 0:
        replace, left = os.replace, [survived]

        def replace_or_die(*paths):
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            replace(*paths)

        os.replace = replace_or_die
        cohort_from_manifest(manifest, store)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert len(InstanceStore(store).records) == min(8, survived // 2 * 3)
    cohort = cohort_from_manifest(manifest, store)
    assert all(np.array_equal(bag.instances.read(), VALUES + i) for i, bag in enumerate(cohort.bags))
    assert InstanceStore(store).verify() == 8


def test_full_disk_names_the_store_and_leaves_it_whole(tmp_path):
    store = InstanceStore(tmp_path / "store")
    store.write("a", {"path": "a"}, VALUES)
    store.finish()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, limits[1]))  # no file may grow any further, as on a full disk
    try:
        with pytest.raises(InputError, match=f"{store.folder}: cannot be written to .*; make room there"):
            store.write("b", {"path": "b"}, np.ones((2**14, 4), np.float32))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(store.folder.glob(".*")) and list(InstanceStore(store.folder).records) == ["a"]
    assert store.verify() == 1
    store.write("b", {"path": "b"}, VALUES * 2)
    assert len(InstanceStore(store.folder)) == 12


def test_read_only_store_is_read_and_named():
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        store = InstanceStore(Path(name) / "store")
        store.write("a", {"path": "a"}, VALUES)
        store.finish()
        store.folder.chmod(0o555)
        with as_nobody():
            again = InstanceStore(store.folder)
            assert np.array_equal(again.read(torch.arange(6)).numpy(), VALUES)
            again.discard([])
            for change in (lambda: again.write("b", {"path": "b"}, VALUES), lambda: again.discard(["a"]), again.finish):
                with pytest.raises(InputError, match=f"{store.folder}: cannot be written to .Permission denied."):
                    change()
        assert store.verify() == 1
        store.folder.chmod(0o755)
