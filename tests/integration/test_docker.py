"""Docker inside a session's container, with an image that is made there."""

from __future__ import annotations

from dummy import background

from coi.testing.host import Host

# `sh` and what it links against are the whole root file system: no registry is needed.
_IMPORT = (
    "tar -C / -ch bin/sh $(ldd /bin/sh | grep -o '/[^ ]*' | sed 's,^/,,')"
    " | docker import - made:here"
)


def test_docker_run_of_an_image_made_here(host: Host) -> None:
    """As the session's user: Docker starts when it is first asked for."""
    background(host)
    # The session is there a good second before all of the boot is.
    host.inside("until [ -S /run/docker.sock ]; do sleep 0.05; done", user="code")
    imported = host.inside(_IMPORT, user="code")
    assert imported.startswith("sha256:")
    assert "made" in host.inside("docker images", user="code")
    said = host.inside("docker run --rm made:here /bin/sh -c 'echo CODE-$((6*7))'", user="code")
    assert said == "CODE-42\n"
    # with the workspace, and with the command's exit code
    run = "docker run --rm -v /workspace:/w made:here /bin/sh -c 'echo made >/w/made; exit 7'"
    done = host.coi("container", "exec", host.instance(), "--", "sh", "-c", run)
    assert done.code == 7, done.err
    assert (host.workspace / "made").read_text() == "made\n"
    host.drop()


def test_docker_in_a_run(host: Host) -> None:
    """One shell line: import an image and run it, in a container that is gone afterwards."""
    line = f"{_IMPORT} >/dev/null && docker run --rm made:here /bin/sh -c 'echo CODE-RUN; exit 3'"
    done = host.coi("run", line)
    assert (done.out, done.code) == ("CODE-RUN\n", 3), done.err
    host.settled()
