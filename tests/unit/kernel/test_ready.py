"""A kernel that somebody else has built, in miniature: from its files to the store."""

from __future__ import annotations

import lzma
import struct
import subprocess
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.events import ignore
from harness.kernel import bzimage, floor, modules
from harness.kernel.layout import Layout
from harness.kernel.obtain import obtain, resolve
from harness.kernel.store import Store
from harness.model import Request

from .conftest import write

RELEASE = "6.12.94-test"
ELF = b"\x7fELF and so on" * 100
CONFIG = "".join(
    f"CONFIG_{need.symbol}={'m' if need.module in ('erofs', 'overlay') else 'y'}\n" for need in floor.FLOOR
)

MODULE = """
static const char name[] __attribute__((section(".modinfo"), used)) = "name={name}";
{code}
"""
EXPORTS = (
    'static const char s[] __attribute__((section("__ksymtab_strings"), used)) = "checksum"; void checksum(void) {}'
)
CODE = {
    "sum": EXPORTS,
    "erofs": "void checksum(void); void init(void) { checksum(); }",
    "overlay": "void init(void) {}",
    "other": "void init(void) {}",
}


def bzimage_of(payload: bytes, release: str = RELEASE) -> bytes:
    """The header that Documentation/arch/x86/boot.rst describes, and a payload behind one sector of setup."""
    head = bytearray(1024)
    head[bzimage.SETUP_SECTS] = 1
    head[bzimage.MAGIC : bzimage.MAGIC + 4] = b"HdrS"
    struct.pack_into("<H", head, bzimage.KERNEL_VERSION, 0x100)
    text = f"{release} (somebody@there) #1 SMP\0".encode()
    head[0x300 : 0x300 + len(text)] = text
    struct.pack_into("<II", head, bzimage.PAYLOAD, 16, len(payload))
    return bytes(head) + b"\0" * 16 + payload + b"behind it"


def compressed(kernel: bytes = ELF) -> bytes:
    return lzma.compress(kernel) + struct.pack("<I", len(kernel))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Modules of which one needs another; one is compressed."""
    root = tmp_path / "modules"
    for name, code in CODE.items():
        target = root / "kernel" / f"{name}.ko"
        target.parent.mkdir(parents=True, exist_ok=True)
        text = MODULE.format(name=name, code=code)
        subprocess.run(["gcc", "-xc", "-c", "-o", target, "-"], input=text, text=True, check=True)
    plain = root / "kernel/erofs.ko"
    plain.with_suffix(".ko.xz").write_bytes(lzma.compress(plain.read_bytes()))
    plain.unlink()
    for name in modules.KEPT:
        write(root / name, "")
    return root


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "boot" / f"vmlinuz-{RELEASE}"
    path.parent.mkdir()
    path.write_bytes(bzimage_of(compressed()))
    write(path.with_name(f"config-{RELEASE}"), CONFIG)
    return path


def request(image: Path, folder: Path) -> Request:
    return Request.parse(f"image:{image} modules={folder}")


def test_it_is_stored_whole(cache: Path, image: Path, folder: Path) -> None:
    kernel = obtain(request(image, folder))
    assert (kernel.release, str(kernel.version), kernel.ready_made) == (RELEASE, "6.12.94", True)
    assert [path.name for path in sorted(kernel.floor.iterdir())] == ["00-sum.ko", "01-erofs.ko", "02-overlay.ko"]
    assert (kernel.floor / "01-erofs.ko").read_bytes().startswith(b"\x7fELF")
    assert kernel.vmlinux.read_bytes() == ELF
    assert kernel.boot_image == kernel.vmlinux
    assert kernel.config.read_text() == CONFIG
    assert dict(kernel.config_proof)["EROFS_FS"] == "m"
    assert kernel.modules.stat().st_size > 0
    assert Store(Layout.default().kernels).find(kernel.identity) == kernel
    assert obtain(Request(source=f"kernel:{kernel.identity}")) == kernel


def test_the_same_files_are_the_same_kernel(cache: Path, image: Path, folder: Path) -> None:
    first = obtain(request(image, folder))
    assert resolve(request(image, folder)).identity == first.identity
    assert obtain(request(image, folder)) == first
    write(image.with_name(f"config-{RELEASE}"), CONFIG + "CONFIG_VETH=m\n")
    assert resolve(request(image, folder)).identity != first.identity


def test_a_file_that_is_gone_makes_it_anew(cache: Path, image: Path, folder: Path) -> None:
    kernel = obtain(request(image, folder))
    (kernel.floor / "00-sum.ko").unlink()
    store = Store(Layout.default().kernels)
    assert store.get(kernel.identity) is None
    assert obtain(request(image, folder)).identity == kernel.identity
    assert (kernel.floor / "00-sum.ko").exists()


def test_without_a_pvh_entry_the_file_itself_is_booted(cache: Path, image: Path, folder: Path) -> None:
    image.write_bytes(bzimage_of(b"compressed in a way that nobody knows"))
    kernel = obtain(request(image, folder))
    assert kernel.boot_image == kernel.image
    assert not kernel.vmlinux.exists()


def test_what_guests_need_is_told_in_one_line(cache: Path, image: Path, folder: Path) -> None:
    write(image.with_name(f"config-{RELEASE}"), CONFIG.replace("CONFIG_EROFS_FS=m\n", ""))
    with pytest.raises(UserError, match=r"it lacks EROFS_FS \(the root\)") as caught:
        obtain(request(image, folder))
    assert "\n" not in str(caught.value)
    assert Store(Layout.default().kernels).kernels() == []
    assert list(Layout.default().kernels.iterdir()) == []


@pytest.mark.parametrize("words", ["+netkit", "+none", "NETKIT=y", "flavour=kasan", "patch=x.patch"])
def test_nothing_can_be_built_into_it(cache: Path, image: Path, words: str) -> None:
    with pytest.raises(UserError, match="is a finished kernel"):
        obtain(Request.parse(f"image:{image} {words}"))


def test_modules_that_are_not_there(cache: Path, image: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has erofs, overlay as modules, and there are none"):
        obtain(Request.parse(f"image:{image}"))
    with pytest.raises(UserError, match=f"has no modules of {RELEASE}"):
        obtain(request(image, tmp_path / "boot"))


def test_a_file_that_is_no_kernel(cache: Path, tmp_path: Path) -> None:
    write(tmp_path / "text", "#!/bin/sh\n")
    with pytest.raises(UserError, match="is not a kernel image"):
        obtain(Request.parse(f"image:{tmp_path / 'text'}"))
    with pytest.raises(UserError, match="No such file"):
        obtain(Request.parse(f"image:{tmp_path / 'nowhere'}"))


@pytest.mark.parametrize("program", ["zstd", "lz4", "gzip"])
def test_compressors_of_distributions(program: str) -> None:
    words = {"zstd": ["-22", "--ultra"], "lz4": ["-l", "-9"], "gzip": ["-n"]}[program]
    payload = subprocess.run([program, *words, "-c"], input=ELF, capture_output=True, check=True).stdout
    if program != "gzip":
        payload += struct.pack("<I", len(ELF))
    assert bzimage.vmlinux(bzimage_of(payload)) == ELF


def test_where_modules_may_be(folder: Path, tmp_path: Path) -> None:
    assert modules.folder_of(RELEASE, folder) == folder
    installed = tmp_path / "root/lib/modules"
    installed.mkdir(parents=True)
    folder.rename(installed / RELEASE)
    assert modules.folder_of(RELEASE, tmp_path / "root") == installed / RELEASE
    assert modules.folder_of(RELEASE, installed) == installed / RELEASE


def test_the_recipe_that_is_kept_means_the_same_tomorrow(cache: Path, image: Path, folder: Path) -> None:
    import json

    kernel = obtain(request(image, folder), events=ignore)
    command = json.loads(kernel.manifest.read_text())["command"]
    assert command == f"kproof exec 'image:{image} modules={folder}' -- uname -r"
