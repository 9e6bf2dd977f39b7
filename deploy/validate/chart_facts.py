"""What must be true of the objects that the chart creates, beyond their schemas.

    python3 chart_facts.py OBJECTS.json GRAFANA_FOLDER OUT_FOLDER

Writes each object, the nodes' configuration and the rules of each PrometheusRule to OUT_FOLDER, where
other tools judge them. Prints every fact that does not hold, and fails if there is one.
"""

import json
import pathlib
import sys


def facts(objects, grafana):
    """Pairs of a fact and whether it holds."""

    def of(kind):
        return [o for o in objects if o["kind"] == kind]

    (workload,) = of("StatefulSet")
    spec, pod = workload["spec"], workload["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    security = container["securityContext"]
    env = {e["name"]: e for e in container["env"]}
    headless = [s for s in of("Service") if s["spec"].get("clusterIP") == "None"]
    selector = spec["selector"]["matchLabels"].items()
    grace = pod["terminationGracePeriodSeconds"]
    drained = container["lifecycle"]["preStop"]["sleep"]["seconds"]

    yield "pods start in parallel", spec["podManagementPolicy"] == "Parallel"
    yield "ordinals begin at 1, like node ids", spec["ordinals"]["start"] == 1
    field = env["POLYRAFT_NODE_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
    yield "a node's id is its pod's ordinal", field.endswith("['apps.kubernetes.io/pod-index']")
    yield "the headless Service publishes unready addresses", all(
        s["spec"]["publishNotReadyAddresses"] for s in headless
    ) and [s["metadata"]["name"] for s in headless] == [spec["serviceName"]]
    yield "no Service becomes configuration", pod["enableServiceLinks"] is False
    yield "liveness ignores the quorum", container["livenessProbe"]["httpGet"]["path"] == "/livez"
    yield "so does the start", container["startupProbe"]["httpGet"]["path"] == "/livez"
    yield "readiness does not", container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    yield "the grace is longer than the drain", grace >= drained + 15
    yield "not root", pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
    yield "seccomp", pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    yield "the root file system is read-only", security["readOnlyRootFilesystem"]
    yield "no privileges", security["capabilities"]["drop"] == ["ALL"]
    yield "no escalation", security["allowPrivilegeEscalation"] is False
    yield "no API token", pod["automountServiceAccountToken"] is False
    yield "data outlives the release", (
        spec["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Retain"
    )
    for service in of("Service"):
        name = service["metadata"]["name"]
        yield f"Service {name} selects the pods", service["spec"]["selector"].items() == selector
    for budget in of("PodDisruptionBudget"):
        yield "one pod at a time is evicted", budget["spec"]["maxUnavailable"] == 1
        yield "the budget is of the pods", budget["spec"]["selector"]["matchLabels"].items() == selector
    for policy in of("NetworkPolicy"):
        peers = {"port": 7400, "protocol": "UDP"}
        rules = policy["spec"]["ingress"], policy["spec"]["egress"]
        yield "nodes reach nodes by UDP, both ways", all(
            any(peers in rule["ports"] for rule in side) for side in rules
        )
    for monitor in of("ServiceMonitor"):
        (endpoint,) = monitor["spec"]["endpoints"]
        relabels = {relabel["targetLabel"]: relabel for relabel in endpoint["relabelings"]}
        ordinal = "__meta_kubernetes_pod_label_apps_kubernetes_io_pod_index"
        yield "a scrape is labelled as rules expect", (
            relabels.keys() == {"cluster", "node"}
            and relabels["node"].get("sourceLabels") == [ordinal]
        )
    boards = {
        name: json.loads(text)
        for o in of("ConfigMap")
        for name, text in o["data"].items()
        if name.endswith(".json")
    }
    if boards:
        ours = {f.name: json.loads(f.read_text()) for f in grafana.glob("dashboards/*.json")}
        yield "every dashboard is installed as it is", boards == ours
    if of("PrometheusRule"):
        yield "every file of rules is installed", len(of("PrometheusRule")) == len(
            list(grafana.glob("rules/*.yml"))
        )


def main(objects, grafana, out):
    objects = json.loads(pathlib.Path(objects).read_text())
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    for o in objects:
        name = f"{o['kind']}-{o['metadata']['name']}"
        (out / f"{name}.json").write_text(json.dumps(o))
        if o["kind"] == "PrometheusRule":
            (out / f"{name}.rules.yml").write_text(json.dumps(o["spec"]))
        if o["kind"] == "ConfigMap" and "node.toml" in o["data"]:
            (out / "node.toml").write_text(o["data"]["node.toml"])
    checked = list(facts(objects, pathlib.Path(grafana)))
    wrong = [fact for fact, holds in checked if not holds]
    for fact in wrong:
        print(f"does not hold: {fact}")
    print(f"{len(objects)} objects, {len(checked) - len(wrong)} of {len(checked)} facts hold")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main(*sys.argv[1:])
