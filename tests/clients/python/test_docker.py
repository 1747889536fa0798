"""Puts Debian's python3-docker (docker-py 5.0) to the daemon that DOCKER_HOST
names. It needs an image named busybox, and knows nothing of gantry."""

import io
import itertools
import os
import socket
import struct
import tarfile
import threading
import time
import unittest

import docker
from docker import errors
from docker.types import IPAMConfig, IPAMPool, Mount, Ulimit

numbers = itertools.count(1)


def archive(**files):
    """A tar archive with these files in it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            info.mode = 0o640
            tar.addfile(info, io.BytesIO(text))
    return out.getvalue()


class Case(unittest.TestCase):
    def setUp(self):
        self.client = docker.from_env(timeout=60)
        self.addCleanup(self.client.close)

    def old(self):
        """A client of this package's own time, where newer shapes are not for it."""
        c = docker.DockerClient(base_url=os.environ["DOCKER_HOST"], version="1.41")
        self.addCleanup(c.close)
        return c

    def name(self):
        return "py-%d-%d" % (os.getpid(), next(numbers))

    def idle(self, **options):
        """A container that waits, and ends at once when asked to."""
        c = self.client.containers.run("busybox", ["sleep", "1000"], detach=True, name=self.name(), stop_signal="KILL", **options)
        self.addCleanup(self.drop, c)
        return c

    def drop(self, c):
        try:
            c.remove(v=True, force=True)
        except errors.NotFound:
            pass

    def eventually(self, what, f):
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if f():
                return
            time.sleep(0.05)
        self.fail("never: " + what)


class Containers(Case):
    def test_run_gives_output(self):
        out = self.client.containers.run("busybox", ["sh", "-c", "echo $WORD; echo unseen >&2"], environment={"WORD": "said"}, remove=True)
        self.assertEqual(out, b"said\n")
        both = self.client.containers.run("busybox", ["sh", "-c", "echo out; sleep 0.1; echo err >&2"], stderr=True, remove=True)
        self.assertEqual(both, b"out\nerr\n")

    def test_run_fails(self):
        with self.assertRaises(errors.ContainerError) as e:
            self.client.containers.run("busybox", ["sh", "-c", "echo wrong >&2; exit 4"], remove=True)
        self.assertEqual(e.exception.exit_status, 4)
        self.assertIn(b"wrong", e.exception.stderr)
        with self.assertRaises(errors.APIError):
            self.client.containers.run("busybox", "/nosuch", remove=True)
        with self.assertRaises(errors.ImageNotFound):
            self.client.api.create_container("nosuch/image:1", "true")
        with self.assertRaises(errors.NotFound):
            self.client.containers.get("nosuch-container")

    def test_life(self):
        c = self.client.containers.create("busybox", ["sh", "-c", "trap 'exit 6' TERM; echo up; while :; do sleep 0.05; done"], name=self.name(), labels={"who": "me"})
        self.addCleanup(self.drop, c)
        self.assertEqual((c.status, c.labels), ("created", {"who": "me"}))
        c.start()
        self.eventually("it is up", lambda: c.logs() == b"up\n")
        c.pause()
        c.reload()
        self.assertEqual(c.status, "paused")
        c.unpause()
        c.stop(timeout=10)
        self.assertEqual(c.wait()["StatusCode"], 6)
        c.restart()
        c.reload()
        self.assertEqual(c.status, "running")
        c.kill()
        self.assertEqual(c.wait(condition="not-running")["StatusCode"], 137)
        c.rename(c.name + "x")
        c.reload()
        self.assertTrue(c.name.endswith("x"))
        self.assertIn(c.id, [x.id for x in self.client.containers.list(all=True, filters={"label": "who=me", "status": "exited"})])
        c.remove()
        with self.assertRaises(errors.NotFound):
            c.reload()

    def test_options(self):
        c = self.idle(mem_limit="64m", nano_cpus=500_000_000, ulimits=[Ulimit(name="nofile", soft=100, hard=200)], cap_drop=["ALL"],
                      hostname="box", tmpfs={"/scratch": "size=1m"}, read_only=True, extra_hosts={"db": "192.0.2.1"}, init=True,
                      restart_policy={"Name": "on-failure", "MaximumRetryCount": 2}, sysctls={"net.ipv4.ip_unprivileged_port_start": "80"},
                      security_opt=["no-new-privileges"], mounts=[Mount("/ephemeral", None, type="tmpfs")], user="nobody", working_dir="/tmp")
        h = c.attrs["HostConfig"]
        self.assertEqual((h["Memory"], h["NanoCpus"], h["RestartPolicy"]["Name"], h["ReadonlyRootfs"]), (67108864, 500_000_000, "on-failure", True))
        code, out = c.exec_run(["sh", "-c", "hostname; pwd; id -un; grep -c db /etc/hosts; cat /proc/sys/net/ipv4/ip_unprivileged_port_start"])
        self.assertEqual((code, out), (0, b"box\n/tmp\nnobody\n1\n80\n"))
        c.update(mem_limit="32m", memswap_limit="64m")
        c.reload()
        self.assertEqual(c.attrs["HostConfig"]["Memory"], 33554432)

    def test_exec(self):
        c = self.idle()
        code, out = c.exec_run("sh -c 'echo out; exit 3'")
        self.assertEqual((code, out), (3, b"out\n"))
        code, (out, err) = c.exec_run(["sh", "-c", "echo out; echo err >&2"], demux=True)
        self.assertEqual((code, out, err), (0, b"out\n", b"err\n"))
        code, out = c.exec_run("tty", tty=True)
        self.assertTrue(out.startswith(b"/dev/pts/"), out)
        _, stream = c.exec_run(["sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.05; done"], stream=True)
        self.assertEqual(b"".join(stream), b"1\n2\n3\n")
        code, out = c.exec_run("env", environment={"WORD": "said"}, workdir="/tmp", user="nobody")
        self.assertIn(b"WORD=said\n", out)
        c.exec_run("touch /tmp/detached", detach=True)
        self.eventually("the detached command has run", lambda: c.exec_run("test -e /tmp/detached").exit_code == 0)
        run = self.client.api.exec_create(c.id, "cat", stdin=True)
        sock = self.client.api.exec_start(run["Id"], socket=True)
        sock._sock.sendall(b"words\n")
        self.assertEqual(frames(sock, 1), [(1, b"words\n")])
        sock._sock.shutdown(socket.SHUT_WR)
        self.assertEqual(frames(sock, 1), [])
        sock.close()
        self.eventually("the exec has ended", lambda: not self.client.api.exec_inspect(run["Id"])["Running"])
        self.assertEqual(self.client.api.exec_inspect(run["Id"])["ExitCode"], 0)

    def test_logs(self):
        c = self.client.containers.run("busybox", ["sh", "-c", "for i in 1 2 3 4 5; do echo line $i; sleep 0.1; done"], detach=True, name=self.name())
        self.addCleanup(self.drop, c)
        self.assertEqual(b"".join(c.logs(stream=True, follow=True)), b"".join(b"line %d\n" % i for i in range(1, 6)))
        self.assertEqual(c.logs(tail=2), b"line 4\nline 5\n")
        stamp = c.logs(tail=1, timestamps=True).split(b" ")[0]
        self.assertEqual(stamp[:10].decode(), time.strftime("%Y-%m-%d", time.gmtime()))
        self.assertEqual(c.logs(stdout=False, stderr=True), b"")
        self.assertEqual(c.logs(since=int(time.time()) + 100), b"")

    def test_attach(self):
        c = self.client.containers.create("busybox", ["sh", "-c", "while read line; do echo got $line; done; echo end; exit 5"], stdin_open=True, name=self.name())
        self.addCleanup(self.drop, c)
        sock = c.attach_socket(params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
        c.start()
        sock._sock.sendall(b"words\n")
        self.assertEqual(frames(sock, 1), [(1, b"got words\n")])
        sock._sock.sendall(b"more\n")
        self.assertEqual(frames(sock, 1), [(1, b"got more\n")])
        sock.close()
        t = self.client.containers.create("busybox", "sh", stdin_open=True, tty=True, name=self.name())
        self.addCleanup(self.drop, t)
        sock = t.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
        t.start()
        t.resize(33, 101)
        sock._sock.sendall(b"stty size; exit 6\n")
        seen = b""
        while chunk := sock.read(4096):
            seen += chunk
        self.assertIn(b"33 101", seen)
        self.assertEqual(t.wait()["StatusCode"], 6)
        sock.close()

    def test_attach_stream(self):
        c = self.client.containers.create("busybox", ["sh", "-c", "echo out; echo err >&2"], name=self.name())
        self.addCleanup(self.drop, c)
        stream = c.attach(stream=True, demux=True)
        c.start()
        self.assertEqual(sorted((o or b"") + (e or b"") for o, e in stream), [b"err\n", b"out\n"])

    def test_stats_and_top(self):
        c = self.idle(mem_limit="64m")
        s = c.stats(stream=False)
        self.assertEqual(s["memory_stats"]["limit"], 67108864)
        self.assertGreater(s["cpu_stats"]["cpu_usage"]["total_usage"], 0)
        self.assertIn("eth0", s["networks"])
        two = list(itertools.islice(c.stats(stream=True, decode=True), 2))
        self.assertEqual([x["name"] for x in two], ["/" + c.name] * 2)
        top = c.top()
        self.assertEqual(len(top["Processes"]), 1)
        self.assertEqual(len(top["Titles"]), len(top["Processes"][0]))

    def test_archives(self):
        c = self.idle()
        self.assertTrue(c.put_archive("/tmp", archive(one=b"first", two=b"second")))
        self.assertEqual(c.exec_run("cat /tmp/one /tmp/two").output, b"firstsecond")
        stream, stat = c.get_archive("/tmp/one")
        self.assertEqual((stat["name"], stat["size"], stat["mode"]), ("one", 5, 0o640))
        with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
            self.assertEqual(tar.extractfile("one").read(), b"first")
        with self.assertRaises(errors.NotFound):
            c.get_archive("/nosuch")
        with self.assertRaises(errors.NotFound):
            c.put_archive("/nosuch", archive(x=b""))

    def test_diff_commit_export(self):
        c = self.client.containers.run("busybox", ["sh", "-c", "echo words >/file"], detach=True, name=self.name())
        self.addCleanup(self.drop, c)
        c.wait()
        self.assertEqual(c.diff(), [{"Path": "/file", "Kind": 1}])
        name = self.name()
        image = c.commit(name, "1", message="said", author="me", conf={"Cmd": ["cat", "/file"]})
        self.addCleanup(self.client.images.remove, name + ":1", force=True)
        self.assertEqual(self.client.containers.run(image.id, remove=True), b"words\n")
        with tarfile.open(fileobj=io.BytesIO(b"".join(c.export()))) as tar:
            self.assertEqual(tar.extractfile("file").read(), b"words\n")

    def test_ports(self):
        c = self.client.containers.run("busybox", ["sh", "-c", "mkdir /www; echo hello >/www/index.html; exec httpd -f -p 80 -h /www"],
                                       detach=True, name=self.name(), ports={"80/tcp": ("127.0.0.1", None)}, stop_signal="KILL")
        self.addCleanup(self.drop, c)
        self.eventually("it has a port", lambda: c.reload() or c.ports.get("80/tcp"))
        port = int(c.ports["80/tcp"][0]["HostPort"])

        def answers():
            try:
                with socket.create_connection(("127.0.0.1", port), 1) as s:
                    s.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    return b"hello" in b"".join(iter(lambda: s.recv(4096), b""))
            except OSError:
                return False
        self.eventually("it answers", answers)

    def test_events(self):
        name = self.name()
        begin = time.time()
        stream = self.client.events(decode=True, filters={"container": name})
        seen = []
        done = threading.Event()

        def listen():
            for e in stream:
                seen.append(e)
                if e["Action"] == "destroy":
                    break
            done.set()
        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        self.client.containers.run("busybox", "true", name=name, remove=True)
        self.assertTrue(done.wait(20), seen)
        stream.close()
        thread.join()
        actions = [e["Action"] for e in seen]
        self.assertEqual([a for a in actions if a != "attach"], ["create", "start", "die", "destroy"])
        past = list(self.client.events(since=begin, until=time.time(), decode=True, filters={"container": name, "event": "die"}))
        self.assertEqual([(e["Type"], e["Actor"]["Attributes"]["exitCode"]) for e in past], [("container", "0")])

    def test_prune(self):
        mark = self.name()
        c = self.client.containers.run("busybox", "true", detach=True, labels=[mark], name=self.name())
        c.wait()
        self.assertEqual(self.client.containers.prune(filters={"label": mark})["ContainersDeleted"], [c.id])
        n = self.client.networks.create(mark, labels={mark: ""})
        self.assertEqual(self.client.networks.prune(filters={"label": mark})["NetworksDeleted"], [n.name])
        v = self.client.volumes.create(self.name(), labels={mark: ""})
        self.assertEqual(self.old().volumes.prune(filters={"label": mark})["VolumesDeleted"], [v.name])


def frames(sock, count):
    """The next frames of an attached stream without a terminal."""
    found = []
    while len(found) < count:
        head = sock.read(8)
        if not head:
            break
        stream, length = struct.unpack(">BxxxL", head)
        text = b""
        while len(text) < length:
            text += sock.read(length - len(text))
        found.append((stream, text))
    return found


class Objects(Case):
    def test_networks(self):
        name = self.name()
        pool = IPAMPool(subnet="10.213.8.0/24", gateway="10.213.8.1")
        n = self.client.networks.create(name, driver="bridge", ipam=IPAMConfig(pool_configs=[pool]), labels={"who": "me"}, check_duplicate=True)
        self.addCleanup(n.remove)
        self.assertEqual(n.attrs["IPAM"]["Config"][0]["Subnet"], "10.213.8.0/24")
        self.assertEqual([x.name for x in self.client.networks.list(names=[name])], [name])
        a, b = self.idle(network=name), self.idle()
        n.connect(b, aliases=["late"], ipv4_address="10.213.8.9")
        code, out = a.exec_run("ping -c1 -W2 late")
        self.assertEqual(code, 0, out)
        self.assertIn(b"10.213.8.9", out)
        self.assertEqual(b.exec_run(["ping", "-c1", "-W2", a.name]).exit_code, 0)
        n.reload()
        self.assertEqual({c.name for c in n.containers}, {a.name, b.name})
        n.disconnect(b)
        with self.assertRaises(errors.APIError) as e:
            n.remove()
        self.assertIn(e.exception.status_code, (403, 409))
        with self.assertRaises(errors.NotFound):
            self.client.networks.get("nosuch-network")
        self.drop(a)

    def test_volumes(self):
        name = self.name()
        v = self.client.volumes.create(name, labels={"who": name})
        self.assertEqual([x.name for x in self.client.volumes.list(filters={"label": "who=" + name})], [name])
        out = self.client.containers.run("busybox", ["sh", "-c", "echo kept >/data/x; cat /data/x"], volumes={name: {"bind": "/data", "mode": "rw"}}, remove=True)
        self.assertEqual(out, b"kept\n")
        self.assertEqual(self.client.containers.run("busybox", "cat /d/x", volumes=[name + ":/d:ro"], remove=True), b"kept\n")
        self.assertEqual(self.client.volumes.get(name).attrs["Driver"], "local")
        v.remove()
        with self.assertRaises(errors.NotFound):
            self.client.volumes.get(name)

    def test_images(self):
        image = self.client.images.get("busybox")
        self.assertIn("busybox:latest", image.tags)
        name = self.name()
        self.assertTrue(image.tag(name, tag="1"))
        self.assertEqual([i.id for i in self.client.images.list(name)], [image.id])
        data = b"".join(self.client.images.get(name + ":1").save(named=name + ":1"))
        self.client.images.remove(name + ":1")
        with self.assertRaises(errors.ImageNotFound):
            self.client.images.get(name + ":1")
        loaded = self.client.images.load(data)
        self.assertEqual([i.id for i in loaded], [image.id])
        self.assertIn(name + ":1", self.client.images.get(name + ":1").tags)
        self.assertGreaterEqual(len(image.history()), 1)
        self.client.images.remove(name + ":1")
        self.client.api.import_image_from_data(archive(file=b"words"), repository=name, tag="2")
        self.assertEqual(self.client.images.get(name + ":2").tags, [name + ":2"])
        self.client.images.remove(name + ":2")

    def test_system(self):
        self.assertTrue(self.client.ping())
        self.assertEqual(self.client.info()["OSType"], "linux")
        self.assertIn("ApiVersion", self.client.version())
        self.idle()
        df = self.old().df()
        self.assertTrue(df["Images"] and df["Containers"])


if __name__ == "__main__":
    unittest.main()
