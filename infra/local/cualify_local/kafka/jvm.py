"""A single-node Kafka broker (KRaft) on this machine's own Java.

Maven fetches the jars that `infra/kafka/pom.xml` names, once; they live outside the repository, in
`$XDG_CACHE_HOME/cualify/kafka-<version>/`. The first broker that ends in order leaves an archive of its loaded classes
beside them; the next ones start in half the time.
"""

import base64
import fcntl
import os
import re
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from cualify_local import children
from cualify_local.children import Program
from cualify_local.kafka.broker import Kafka, KafkaUnavailable, answers

POM = Path(__file__).parents[3] / "kafka" / "pom.xml"
OLDEST_JAVA = 17
START_TIMEOUT_SEC = 60
FETCH_TIMEOUT_SEC = 600
# The quickest to start and the smallest; KAFKA_JVM_FLAGS replaces them, as a benchmark would.
QUICK_START = "-Xmx384m -XX:+UseSerialGC -XX:TieredStopAtLevel=1"
_ARCHIVE = "classes.jsa"


@dataclass(frozen=True, slots=True)
class Java:
    path: str
    version: str


def start_jvm(
    data_dir: Path, log: Path, *, listeners: Mapping[str, int] | None = None, more: Mapping[str, object] | None = None
) -> Kafka:
    """Start a broker on free ports of 127.0.0.1 with its data in `data_dir`, kept for the next start.

    `listeners`: further ones by their security protocol and port; `more`: what they need of the broker's properties.

    Returns once it answers a Metadata request. Raises KafkaUnavailable if Java or Maven is missing, or it can't start.
    """
    java = find_java()
    jars = ensure_jars()
    broker_port, controller_port = children.free_ports(2)
    data_dir = data_dir.absolute()
    settings = _settings(data_dir / "log", broker_port, controller_port, listeners or {}) | dict(more or {})
    config = _write_config(data_dir, settings)
    program = Program(name="kafka", args=_command(java, jars, config, data_dir), log=log, cwd=data_dir)
    return run(program, f"127.0.0.1:{broker_port}", data_dir)


def run(program: Program, address: str, data_dir: Path) -> Kafka:
    """Start the broker's process, for the first time or again."""
    child = children.start(program)
    if not children.wait_until(lambda: answers(address), timeout_sec=START_TIMEOUT_SEC, child=child):
        children.kill(child)
        raise KafkaUnavailable(f"the JVM broker did not start; {program.log} ends: {children.tail(program.log)}")
    return Kafka(address, "jvm", child=child, data_dir=data_dir)


def find_java() -> Java:
    """JAVA_HOME's, or the one on PATH. Raises KafkaUnavailable unless it is new enough."""
    home = os.environ.get("JAVA_HOME")
    path = shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")
    if path is None:
        raise KafkaUnavailable(
            f"no Java: install {OLDEST_JAVA} or newer (Debian: apt-get install default-jre-headless)"
        )
    said = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=30).stderr
    version = re.search(r'version "((\d+)[^"]*)"', said)
    if version is None or int(version[2]) < OLDEST_JAVA:
        raise KafkaUnavailable(f"{path} is older than Java {OLDEST_JAVA}: install that, or set JAVA_HOME")
    return Java(path, version[1])


def ensure_jars() -> Path:
    """The folder with the broker's jars, fetched if it isn't there. Two that ask at once fetch once."""
    folder = _cache() / f"kafka-{_kafka_version()}"
    if folder.is_dir():
        return folder
    with _locked(folder.with_name(f"{folder.name}.lock")):
        if not folder.is_dir():
            _fetch(folder)
    return folder


def publish_class_archive(kafka: Kafka) -> None:
    """Called when a broker has ended: put the class archive that it may have left where the next one finds it."""
    if kafka.data_dir is None or not (draft := kafka.data_dir / _ARCHIVE).exists():
        return
    with suppress(OSError, KafkaUnavailable):
        target = _archive(find_java())
        if not target.exists():
            shutil.copyfile(draft, part := target.with_name(f"{target.name}.{os.getpid()}"))
            part.rename(target)
    draft.unlink(missing_ok=True)


def _cache() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cualify"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _kafka_version() -> str:
    names = {"pom": "http://maven.apache.org/POM/4.0.0"}
    version = ElementTree.parse(POM).findtext("pom:properties/pom:kafka.version", namespaces=names)
    if not version:
        raise KafkaUnavailable(f"{POM} names no kafka.version")
    return version


def _archive(java: Java) -> Path:
    return _cache() / f"kafka-{_kafka_version()}-java-{java.version}.jsa"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(folder: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise KafkaUnavailable(
            "no Maven, needed once for the broker's jars: install it (Debian: apt-get install maven)"
        )
    draft = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    command = [maven, "-q", "-B", "-C", "-f", str(POM), "dependency:copy-dependencies", f"-DoutputDirectory={draft}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_TIMEOUT_SEC)
        if done.returncode != 0 or not any(draft.glob("kafka_*.jar")):
            raise KafkaUnavailable(f"Maven could not fetch the broker's jars: {_first_error(done.stdout)}")
        draft.chmod(0o755)
        draft.rename(folder)
    except subprocess.TimeoutExpired as error:
        raise KafkaUnavailable(f"Maven took longer than {FETCH_TIMEOUT_SEC} s to fetch the broker's jars") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _first_error(output: str) -> str:
    return next((line for line in output.splitlines() if line.startswith("[ERROR]")), "it gave no reason")[:300]


def _command(java: Java, jars: Path, config: Path, data_dir: Path) -> tuple[str, ...]:
    archive = _archive(java)
    return (
        java.path,
        *os.environ.get("KAFKA_JVM_FLAGS", QUICK_START).split(),
        "-Xshare:auto",
        # Used if it fits this Java and these jars, else ignored; or written when this broker ends.
        f"-XX:SharedArchiveFile={archive}" if archive.exists() else f"-XX:ArchiveClassesAtExit={data_dir / _ARCHIVE}",
        "-Xlog:disable",
        "-Djava.awt.headless=true",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
        "-cp",
        os.pathsep.join(str(jar) for jar in sorted(jars.glob("*.jar"))),
        "kafka.Kafka",
        str(config),
    )


def _write_config(data_dir: Path, settings: dict[str, object]) -> Path:
    log_dir = data_dir / "log"
    log_dir.mkdir(parents=True, exist_ok=True)
    _format(log_dir / "meta.properties")
    config = data_dir / "server.properties"
    config.write_text(_properties(settings))
    return config


def _format(meta: Path) -> None:
    """What `kafka.tools.StorageTool format` would write, without starting a JVM for it."""
    if not meta.exists():
        meta.write_text(_properties({"version": 1, "cluster.id": _id(), "node.id": 1, "directory.id": _id()}))


def _id() -> str:
    """A UUID as Kafka spells it; it may not start with a dash."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


def _settings(log_dir: Path, broker_port: int, controller_port: int, listeners: Mapping[str, int]) -> dict[str, object]:
    offered = {"PLAINTEXT": broker_port, **listeners}
    advertised = ",".join(f"{name}://127.0.0.1:{port}" for name, port in offered.items())
    one_copy = ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic")
    return {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"{advertised},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": advertised,
        "log.dirs": log_dir,
        **{f"{topic}.replication.factor": 1 for topic in one_copy},
        **{f"{topic}.min.isr": 1 for topic in one_copy[1:]},
        **{f"{topic}.num.partitions": 3 for topic in one_copy},
        "group.initial.rebalance.delay.ms": 0,
        "group.min.session.timeout.ms": 1_000,
        # A killed broker's registration stands in the way of its successor for this long (default: 9 s).
        "broker.session.timeout.ms": 3_000,
        "broker.heartbeat.interval.ms": 500,
        "auto.create.topics.enable": "false",
        "num.network.threads": 2,
        "num.io.threads": 4,
    }


def _properties(settings: dict[str, object]) -> str:
    # A backslash is the format's escape sign, and the only one a path could hold.
    return "".join(f"{name}={str(value).replace(chr(92), chr(92) * 2)}\n" for name, value in settings.items())
