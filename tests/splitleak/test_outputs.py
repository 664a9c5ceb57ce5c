"""An output is ours alone to replace, and whole wherever its writer dies: every step is killed, and made to fail."""

import errno
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import threading

import pytest
import torch

from splitleak.artifacts import save_tensors, write_json, written_file, written_folder
from splitleak.outputs import FolderKind, check_file, claimed, locked

KIND = FolderKind("make", "mark.json", ("a", "b", "weights.safetensors"))
STEPS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree", "os.scandir")

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write(folder, content, settings=None, **options):
    with written_folder(folder, KIND, settings, **options) as partial:
        (partial / "a").write_text(content)
        (partial / "b").write_text(content)
        write_json(partial / "mark.json", {"content": content, **(settings or {})})


def content(folder):
    """What a whole folder holds."""
    assert names(folder) == ["a", "b", "mark.json"]
    found = {(folder / "a").read_text(), (folder / "b").read_text()}
    assert len(found) == 1
    return found.pop()


def in_child(work):
    """Runs ``work`` in a process of its own, which need not clean up; returns its exit status, 0 where it ended."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = work() or 0
        except OSError:
            status = 3
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die():
    os._exit(9)


def fail():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def stopped_at(step, work, below, how):
    """Does ``work`` in a process in which a step, by its number, does not happen; returns whether there was one."""

    def stopped():
        count = itertools.count()

        def hook(event, arguments):
            if event in STEPS and arguments and str(below) in str(arguments[0]) and next(count) == step:
                how()

        sys.addaudithook(hook)
        work()
        return 5 if next(count) > step else 0

    return in_child(stopped) != 0


@pytest.mark.slow
@pytest.mark.parametrize("how", [die, fail])
@pytest.mark.parametrize("before", [None, "old"])
def test_wherever_a_writer_dies_or_fails_a_whole_folder_is_found_next_time(tmp_path, how, before):
    seen, more, step = set(), True, 0
    while more:
        place = tmp_path / str(step) / "folder"
        if before:
            write(place, before)
        more = stopped_at(step, lambda place=place: write(place, "new"), tmp_path, how)
        with claimed(place, KIND):
            found = content(place) if place.exists() else None
        assert found in (before, "new"), step
        assert set(names(place.parent)) <= {"folder"}, step
        seen.add(found)
        write(place, "again")  # and the next writer is not in the way of what was left
        assert content(place) == "again"
        step += 1
    assert seen == {before, "new"}
    assert step > 10


def test_a_mark_that_is_text_is_told_by_what_is_in_it(tmp_path):
    kind, folder = FolderKind("report", "report.md", ("*",), text="- measured: "), tmp_path / "folder"
    kind.check(folder)
    folder.mkdir()
    kind.check(folder)
    (folder / "notes.txt").write_text("mine")
    for mark in (None, b"# mine", b"\xff- measured: "):
        if mark is not None:
            (folder / "report.md").write_bytes(mark)
        with pytest.raises(FileExistsError, match=r"`splitleak report` wrote .* without a valid report\.md"):
            kind.check(folder, force=True)
    (folder / "report.md").write_text("# A report\n\n- measured: 3 of 4 cells")
    kind.check(folder)


def test_a_file_of_other_settings_is_replaced_with_force_alone_and_another_never(tmp_path):
    path = tmp_path / "file.json"

    def check(settings, **options):
        check_file(path, "a thing", lambda there: json.loads(there.read_text()), settings, **options)

    check({"seed": 1})
    path.touch()
    check({"seed": 1})
    write_json(path, {"seed": 1, "about": {"n": 2}, "more": 3})
    for same in (None, {}, {"seed": 1}, {"about": {"n": 2}}):
        check(same)
    for other, said in (({"seed": 2}, "seed 1 and not 2"), ({"about": {"n": 3}}, r"about\.n 2 and not 3")):
        with pytest.raises(FileExistsError, match=rf"a thing with these settings at .*, but it has {said}; --force"):
            check(other)
        check(other, force=True)
    path.write_text("mine")
    with pytest.raises(FileExistsError, match=r"expected a thing or none at .*file\.json, got something else"):
        check({}, force=True)


@pytest.fixture
def steps(tmp_path, monkeypatch):
    """What is handed to the disk, renamed and removed meanwhile, in order, by the names below ``tmp_path``."""
    seen = []

    def name(path):
        path = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else os.fspath(path)
        return os.path.relpath(path, tmp_path)

    def record(step):
        call = getattr(os, step)

        def recorded(path, *other):
            seen.append((step, name(path), *map(name, other)))
            return call(path, *other)

        monkeypatch.setattr(os, step, recorded)

    for step in ("fsync", "rename", "replace"):
        record(step)

    def removed(path, *, call=shutil.rmtree, **options):
        seen.append(("remove", name(path)))
        call(path, **options)

    monkeypatch.setattr(shutil, "rmtree", removed)
    return seen


def test_a_folder_is_on_the_disk_before_it_is_renamed_and_its_name_before_the_old_one_goes(tmp_path, steps):
    write(tmp_path / "folder", "old")
    steps.clear()
    write(tmp_path / "folder", "new")
    at = {step: number for number, step in enumerate(steps)}
    renamed = at["rename", ".folder.partial", ".folder.new"]
    for file in ("a", "b", "mark.json"):
        assert at["fsync", f".folder.partial/{file}"] < at["fsync", ".folder.partial"] < renamed
    assert steps[renamed:] == [
        ("rename", ".folder.partial", ".folder.new"),
        ("fsync", "."),
        ("rename", "folder", ".folder.old"),
        ("rename", ".folder.new", "folder"),
        ("fsync", "."),
        ("rename", ".folder.old", ".folder.partial"),
        ("remove", ".folder.partial"),
    ]


def test_what_lies_in_folders_of_a_folder_is_on_the_disk_too(tmp_path, steps):
    with written_folder(tmp_path / "folder", KIND) as partial:
        (partial / "a" / "deep").mkdir(parents=True)
        (partial / "a" / "deep" / "file").write_text("x")
        (partial / "b").symlink_to("nowhere")
    synced = [step[1] for step in steps if step[0] == "fsync"]
    deep = [f".folder.partial{below}" for below in ("/a/deep/file", "/a/deep", "/a", "")]
    assert synced == [*deep, ".", "."]


def test_a_file_is_on_the_disk_before_it_takes_the_old_ones_place(tmp_path, steps):
    write_json(tmp_path / "file", {})
    assert steps == [("fsync", ".file.partial"), ("replace", ".file.partial", "file"), ("fsync", ".")]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_what_the_disk_does_not_take_replaces_nothing(tmp_path, monkeypatch, number):
    write(tmp_path / "folder", "old")
    write_json(tmp_path / "file", {"old": 1})

    def failing(descriptor):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", failing)
        for work in (lambda: write(tmp_path / "folder", "new"), lambda: write_json(tmp_path / "file", {"new": 1})):
            with pytest.raises(OSError, match=os.strerror(number)):
                work()
    with claimed(tmp_path / "folder", KIND):
        assert content(tmp_path / "folder") == "old"
    assert json.loads((tmp_path / "file").read_text()) == {"old": 1}
    assert names(tmp_path) == ["file", "folder"]


def test_a_file_system_that_cannot_be_waited_for_is_written_to_all_the_same(tmp_path, monkeypatch):
    def unable(descriptor):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", unable)
    write(tmp_path / "folder", "new")
    assert content(tmp_path / "folder") == "new"


def test_a_file_system_without_locks_is_named_and_nothing_is_written_there(tmp_path, monkeypatch):
    def flock(descriptor):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("splitleak.outputs.lock_file", flock)
    open_before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match=r"expected a file system with locks, to write .*new\.json, but .*\.lock has"):
        write_json(tmp_path / "new.json", {})
    assert not (tmp_path / "new.json").exists()
    assert len(os.listdir("/proc/self/fd")) == open_before


@pytest.mark.slow
def test_a_recovery_that_is_killed_itself_is_recovered_from(tmp_path):
    more, step = True, 0
    while more:
        place = tmp_path / str(step) / "folder"
        for name, text in ((".folder.old", "old"), (".folder.new", "new")):  # killed between the two renames
            write(place, text)
            place.rename(place.with_name(f"kept{name}"))
        for name in (".folder.old", ".folder.new"):
            place.with_name(f"kept{name}").rename(place.with_name(name))

        def recover(place=place):
            with claimed(place, KIND):
                pass

        more = stopped_at(step, recover, tmp_path, die)
        recover()
        assert content(place) == "new", step
        assert names(place.parent) == ["folder"]
        step += 1
    assert step > 5


@pytest.mark.slow
def test_an_old_folder_that_is_half_removed_is_never_put_back(tmp_path):
    more, step = True, 0
    while more:
        place = tmp_path / str(step) / "folder"
        write(place, "old")
        more = stopped_at(step, lambda place=place: write(place, "new"), tmp_path, die)
        subprocess.run(["rm", "-rf", str(place)], check=True)  # by the user, who wants neither
        with claimed(place, KIND):
            assert not place.exists() or content(place) in ("old", "new"), step
        step += 1


def test_the_old_folder_alone_is_put_back(tmp_path):
    write(tmp_path / "folder", "old")
    (tmp_path / "folder").rename(tmp_path / ".folder.old")
    with claimed(tmp_path / "folder", KIND):
        assert content(tmp_path / "folder") == "old"
    assert names(tmp_path) == ["folder"]


def test_a_full_disk_leaves_the_old_folder_and_the_old_file_and_is_one_clear_error(tmp_path):
    write(tmp_path / "folder", "old")
    (tmp_path / "file").write_text("old")
    weights = {"w": torch.zeros(1000)}

    def on_a_full_disk(work):
        def limited():
            resource.setrlimit(resource.RLIMIT_FSIZE, (512, resource.RLIM_INFINITY))
            work()

        assert in_child(limited) == 3  # an OSError

    def folder():
        with written_folder(tmp_path / "folder", KIND) as partial:
            save_tensors(partial / "weights.safetensors", weights)

    def file():
        with written_file(tmp_path / "file") as partial:
            partial.write_bytes(bytes(1000))

    for work in (folder, file, lambda: save_tensors(tmp_path / "file", weights)):
        on_a_full_disk(work)
        assert content(tmp_path / "folder") == "old"
        assert (tmp_path / "file").read_text() == "old"
        assert names(tmp_path) == ["file", "folder"]


@pytest.mark.parametrize("how", [die, fail])
def test_wherever_the_writer_of_a_file_dies_or_fails_the_old_or_the_new_one_is_there(tmp_path, how):
    path, more, step = tmp_path / "file.json", True, 0
    while more:
        write_json(path, {"value": "old"})
        more = stopped_at(step, lambda: write_json(path, {"value": "new"}), tmp_path, how)
        assert json.loads(path.read_text()) in ({"value": "old"}, {"value": "new"})
        step += 1
    write_json(path, {"value": "again"})
    assert names(tmp_path) == ["file.json"]


def users_folder(place):
    place.mkdir()
    (place / "thesis.txt").write_text("mine")


def named_like_ours(place):
    place.mkdir()
    (place / "mark.json").write_text("{}")
    (place / "thesis.txt").write_text("mine")


def no_json_in_the_mark(place):
    place.mkdir()
    (place / "mark.json").write_text("mine")


def a_list_in_the_mark(place):
    place.mkdir()
    (place / "mark.json").write_text("[1]")


def another_kinds(place):
    with written_folder(place, FolderKind("other", "other.json")) as partial:
        write_json(partial / "other.json", {})


def a_file(place):
    place.write_text("mine")


def a_link_to_a_users_folder(place):
    users_folder(place.with_name("elsewhere"))
    place.symlink_to(place.with_name("elsewhere"))


def in_the_way_of_the_next_name(place):
    users_folder(place.with_name(f".{place.name}.old"))


def in_the_way_of_the_partial_one(place):
    users_folder(place.with_name(f".{place.name}.partial"))


THEIRS = [
    users_folder,
    named_like_ours,
    no_json_in_the_mark,
    a_list_in_the_mark,
    another_kinds,
    a_file,
    a_link_to_a_users_folder,
    in_the_way_of_the_next_name,
    in_the_way_of_the_partial_one,
]


@pytest.mark.parametrize("make", THEIRS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("force", [False, True])
def test_what_we_did_not_write_is_refused_by_name_and_not_touched_with_or_without_force(tmp_path, make, force):
    place = tmp_path / "place"
    make(place)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(FileExistsError, match=r"place|elsewhere"):
        write(place, "new", force=force)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_came_while_we_wrote_is_not_touched_and_our_own_is_kept(tmp_path):
    place = tmp_path / "place"

    def write_meanwhile():
        with written_folder(place, KIND) as partial:
            write_json(partial / "mark.json", {})
            users_folder(place)

    with pytest.raises(FileExistsError, match=r"thesis\.txt"):
        write_meanwhile()
    assert (place / "thesis.txt").read_text() == "mine"
    place.rename(tmp_path / "moved")
    with claimed(place, KIND):
        assert names(place) == ["mark.json"]


def test_an_empty_folder_and_a_link_to_one_are_written_to(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    write(tmp_path / "link", "new")
    assert content(tmp_path / "empty") == "new"
    assert (tmp_path / "link").is_symlink()


def test_our_own_is_replaced_under_the_same_settings_and_with_force_under_others(tmp_path):
    place, settings = tmp_path / "place", {"config": {"epochs": 2, "layers": (1, 2)}, "seed": 0}
    write(place, "first", settings)
    write(place, "second", settings)
    assert content(place) == "second"
    for others in ({"seed": 1}, {"config": {"epochs": 3}}, {"config": {"layers": [1]}}, {"new": 1}):
        key = next(iter(others))
        with pytest.raises(FileExistsError, match=rf"it has .*{key}.*--force replaces it"):
            write(place, "third", {**settings, **others})
    assert content(place) == "second"
    write(place, "third", {"seed": 1}, force=True)
    assert content(place) == "third"


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), os.mkfifo])
def test_a_file_is_not_written_over_a_folder_or_a_pipe(tmp_path, make):
    make(tmp_path / "place")
    with pytest.raises(FileExistsError, match="place, got something else"):
        write_json(tmp_path / "place", {})
    assert names(tmp_path) == ["place"]


def test_a_file_is_written_where_a_link_leads(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_json(tmp_path / "link", {})
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "{}\n"


@pytest.mark.parametrize("what", ["lock", "partial"])
def test_a_link_that_stands_where_we_lock_or_write_is_not_followed(tmp_path, what):
    precious, link = tmp_path / "precious", tmp_path / f".place.{what}"
    precious.write_text("theirs")
    link.symlink_to(precious)
    with pytest.raises(FileExistsError, match=rf"\.place\.{what}, got a link; it was not touched"):
        write_json(tmp_path / "place", {})
    assert precious.read_text() == "theirs"
    assert names(tmp_path) == sorted([link.name, "precious"])


def test_the_second_writer_is_told_which_process_is_the_first(tmp_path):
    place = tmp_path / "place"
    script = (
        "import sys, pathlib\nfrom splitleak.outputs import FolderKind, claimed\n"
        "with claimed(pathlib.Path(sys.argv[1]), FolderKind('make', 'mark.json')):\n"
        "    print('ready', flush=True)\n    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(place)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "ready\n"
        with pytest.raises(BlockingIOError, match=rf"alone in writing {place}, but process {first.pid} \(.*{place}"):
            write(place, "second")
        first.kill()
        first.wait()
    write(place, "second")  # what a killed process held is free
    assert content(place) == "second"
    assert names(tmp_path) == ["place"]


def test_a_command_line_with_a_name_that_is_no_utf8_is_no_reason_not_to_write(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["splitleak", "split", "--data", os.fsdecode(b"caf\xe9.zip")])
    write(tmp_path / "place", "ours")
    assert content(tmp_path / "place") == "ours"


def test_two_threads_exclude_each_other_and_a_block_within_another_is_let_in(tmp_path):
    place = tmp_path / "place"
    refused = []

    def other():
        try:
            write(place, "other")
        except BlockingIOError as error:
            refused.append(str(error))

    with locked(place), claimed(place, KIND):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        write(place, "ours")
    assert len(refused) == 1
    assert f"process {os.getpid()}" in refused[0]
    assert content(place) == "ours"


def test_many_writers_of_one_file_take_turns(tmp_path):
    path = tmp_path / "file.json"
    threads = [threading.Thread(target=write_json, args=(path, {"who": [who] * 1000})) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(json.loads(path.read_text())["who"])) == 1
    assert names(tmp_path) == ["file.json"]


def test_a_mark_that_is_nested_without_end_is_none_of_ours(tmp_path):
    kind = FolderKind("x", "mark.json")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mark.json").write_text("[" * 100_000)
    with pytest.raises(FileExistsError, match=r"without a valid mark\.json; it was not touched"):
        kind.check(tmp_path / "out")
