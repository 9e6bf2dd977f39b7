"""Installs a chart with the real Helm, and prints what it would have created.

    chart + values ─→ Helm's own library ─HTTP→ an API server in this file ─→ objects on stdout

Helm has no package in Debian; `helm-sdkpy` on PyPI carries its library, which has no dry run. So the
library is given an API server on loopback that knows the kinds below, answers 404 to every `GET` of an
object, and keeps what is posted. Values are checked against values.schema.json by Helm itself.

Not here: whether an object is valid; `validate.sh` asks `kubernetes-validate`.
"""

import ctypes
import http.server
import json
import os
import sys
import tempfile
import threading
from urllib.parse import urlsplit

KUBERNETES = "v1.32.0"
STATUS = {"kind": "Status", "apiVersion": "v1", "status": "Failure"}
KINDS = {
    "v1": ["ConfigMap", "Namespace", "Pod", "Secret", "Service", "ServiceAccount"],
    "apps/v1": ["StatefulSet"],
    "policy/v1": ["PodDisruptionBudget"],
    "networking.k8s.io/v1": ["NetworkPolicy"],
    "monitoring.coreos.com/v1": ["ServiceMonitor", "PrometheusRule"],
    "cert-manager.io/v1": ["Certificate", "Issuer"],
}


def plural(kind):
    word = kind.lower()
    return word[:-1] + "ies" if word.endswith("y") else word + "s"


def discovery(path):
    """What an API server says of itself at `path`, or None."""
    groups = [version.split("/") for version in KINDS if "/" in version]
    if path == "/version":
        return {"major": "1", "minor": "32", "gitVersion": KUBERNETES, "platform": "linux/amd64"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        named = [
            {"name": group, "versions": [seen], "preferredVersion": seen}
            for group, version in groups
            for seen in [{"groupVersion": f"{group}/{version}", "version": version}]
        ]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": named}
    version = path.removeprefix("/apis/").removeprefix("/api/")
    if version not in KINDS:
        return None
    resources = [
        {
            "name": plural(kind),
            "singularName": kind.lower(),
            "kind": kind,
            "namespaced": kind != "Namespace",
            "verbs": ["create", "get", "list", "patch"],
        }
        for kind in KINDS[version]
    ]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": version,
        "resources": resources,
    }


class ApiServer(http.server.BaseHTTPRequestHandler):
    created = []

    def log_message(self, *_):
        pass

    def answer(self, code, body):
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        path = urlsplit(self.path).path
        known = discovery(path)
        if known is not None:
            return self.answer(200, known)
        if path.endswith("/secrets"):
            return self.answer(200, {"kind": "SecretList", "apiVersion": "v1", "items": []})
        self.answer(404, {**STATUS, "reason": "NotFound", "code": 404})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Content-Type"].startswith("application/json"):
            self.created.append(json.loads(body))
            return self.answer(201, self.created[-1])
        # Anything else is Helm's record of the release, in protobuf; no part of the chart.
        self.answer(201, {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "stored"}})

    def do_PUT(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(200, {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "stored"}})


def load(library):
    lib = ctypes.CDLL(library)
    lib.helm_sdkpy_last_error.restype = ctypes.c_char_p
    return lib


def check(lib, code):
    if code != 0:
        sys.exit("helm: " + lib.helm_sdkpy_last_error().decode())


def main(library, chart, values):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), ApiServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    lib = load(library)
    with tempfile.TemporaryDirectory() as home:
        os.environ.update(HOME=home, XDG_CACHE_HOME=home, XDG_CONFIG_HOME=home, XDG_DATA_HOME=home)
        kubeconfig = os.path.join(home, "config")
        cluster = {"server": f"http://127.0.0.1:{server.server_port}"}
        with open(kubeconfig, "w", encoding="utf-8") as file:
            json.dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "c", "cluster": cluster}],
                    "users": [{"name": "u", "user": {}}],
                    "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                    "current-context": "x",
                },
                file,
            )
        handle, out = ctypes.c_ulonglong(), ctypes.c_char_p()
        made = lib.helm_sdkpy_config_create(
            b"polyraft", kubeconfig.encode(), b"", b"{}", ctypes.byref(handle)
        )
        check(lib, made)
        check(lib, lib.helm_sdkpy_lint(handle, chart.encode(), ctypes.byref(out)))
        options = json.dumps({"disable_openapi_validation": True, "wait": False})
        installed = lib.helm_sdkpy_install(
            handle, b"db", chart.encode(), values.encode(), b"", options.encode(), ctypes.byref(out)
        )
        check(lib, installed)
    json.dump(ApiServer.created, sys.stdout, indent=1)


if __name__ == "__main__":
    main(*sys.argv[1:])
