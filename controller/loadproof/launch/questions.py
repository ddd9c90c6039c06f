"""What the controller asks a model server over REST: what the row of its API says, and OVMS's own surface.

An answer that does not come, or cannot be read, is None: a server need not have every path. `note` is told where an
answer met a bound: it goes into run.json, and from there into reports, so that size and depth are bounded here.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Callable, Iterable
from typing import Any, Final

from loadproof.launch import http
from loadproof_clients.apis import Api

# Of OVMS, whichever API the load uses
_LIVE = "/v2/health/live"
_STATUS = "/v1/config"
_RELOAD = "/v1/config/reload"

DEPTH_MAX: Final = 32  # of JSON, which is written to run.json again
Note = Callable[[str], object]


def is_model_ready(rest: str, api: Api, model: str, note: Note = str) -> bool:
    """Whether the model can be asked at the REST address `rest` (host:port)."""
    body = http.get(_url(rest, api.questions.model_ready, model), note)
    return body is not None and _filled(api.questions.ready_text, model) in body


def about_server(rest: str, api: Api, note: Note = str) -> dict[str, str] | None:
    """The `name` and `version` that the server gives itself, 200 characters of each at most."""
    answer = _json(_url(rest, api.questions.server), note) if api.questions.server else None
    if not isinstance(answer, dict) or not {"name", "version"} <= answer.keys():
        return None
    return {name: str(answer[name])[:200] for name in ("name", "version")}


def about_model(rest: str, api: Api, model: str, note: Note = str) -> Any:
    """The model's inputs and outputs as the API describes them (JSON)."""
    return _json(_url(rest, api.questions.model, model), note) if api.questions.model else None


def send_probe(rest: str, api: Api, model: str, request_id: str) -> None:
    """One request without a body on the inference path; whatever the answer is, the balancer logs it."""
    http.post(_url(rest, api.questions.inference, model), headers={"x-loadproof-id": request_id})


def is_live(rest: str) -> bool:
    """Whether the server answers, with or without a model."""
    return http.get(f"http://{rest}{_LIVE}") is not None


def model_status(rest: str, model: str, note: Note = str) -> Any:
    """The model's entry in OVMS's configuration status: `{"model_version_status": [...]}`."""
    config = _json(f"http://{rest}{_STATUS}", note)
    return config.get(model) if isinstance(config, dict) else None


def reload_configuration(rest: str, timeout_s: float) -> tuple[int, str]:
    """Have the server read its configuration file again; status and body, 0 and the reason where none came."""
    return http.post(f"http://{rest}{_RELOAD}", timeout_s)


def _url(rest: str, path: str, model: str = "") -> str:
    return f"http://{rest}{_filled(path, urllib.parse.quote(model))}"


def _filled(text: str, model: str) -> str:
    return text.replace("{model}", model)


def _json(url: str, note: Note) -> Any:
    try:
        answer = json.loads(http.get(url, note) or "null", parse_constant=_no_number)
        if _depth(answer) <= DEPTH_MAX:
            json.dumps(answer, ensure_ascii=False).encode()  # half a surrogate pair would fit into no file
            return answer
    except ValueError:
        return None
    except RecursionError:
        pass
    note(f"{url}: JSON of more than {DEPTH_MAX} levels")
    return None


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _depth(value: Any) -> int:
    """Levels of lists and objects, counted up to one over DEPTH_MAX."""
    depth, level = 0, [value]
    while depth <= DEPTH_MAX and (level := [one for each in level for one in _inside(each)]):
        depth += 1
    return depth


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
