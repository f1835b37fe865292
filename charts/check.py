"""Checks objects, given as JSON one after the other on standard input.

    check.py rights [gang]         what the chart's roles allow, exactly; with a scheduler that places Pods together
    check.py pods                  the operator's Deployment keeps to restricted Pod Security; prints its environment
    check.py network               the NetworkPolicy lets in reports and metrics, lets out DNS and the API server, and selects the operator
    check.py same FILE             the objects are those of FILE, but for what Helm and kustomize add
"""

import json
import sys

# verbs of the operator, by API group and resource: an exact list, so that a right more is a decision here.
OPERATOR = {
    "trainyard.dev/pipelines": "get list watch",
    "trainyard.dev/pipelineruns": "get list watch create patch delete",
    "trainyard.dev/trainingjobs": "get list watch create patch delete",
    "trainyard.dev/pipelines/status": "patch",
    "trainyard.dev/pipelineruns/status": "patch",
    "trainyard.dev/trainingjobs/status": "patch",
    "/pods": "get list watch create delete deletecollection",
    "/services": "get create",
    "apps/controllerrevisions": "get create patch",
    "events.k8s.io/events": "create patch",
    "coordination.k8s.io/leases": "get create update",
    "apiextensions.k8s.io/customresourcedefinitions": "get",
}
# With a scheduler that places Pods together.
GANG = {f"{group}/podgroups": "create" for group in ("scheduling.x-k8s.io", "scheduling.volcano.sh")}
LEASES, CRDS = "coordination.k8s.io/leases", "apiextensions.k8s.io/customresourcedefinitions"


def objects(text):
    decoder, at, found = json.JSONDecoder(), 0, []
    while at < len(text):
        one, at = decoder.raw_decode(text, at)
        found += one["items"] if one["kind"] == "List" else [one]
        while at < len(text) and text[at].isspace():
            at += 1
    return found


def name(one):
    meta = one["metadata"]
    return f"{one['kind']} {meta.get('namespace', '')}/{meta['name']}"


def expect(condition, message):
    if not condition:
        sys.exit(f"error: {message}")


def rights(all_objects, expected):
    """Follows the bindings of the ServiceAccount, for a role that nobody binds allows nothing."""
    roles = {name(one): one for one in all_objects if one["kind"] in ("Role", "ClusterRole")}
    found, where = {}, {}
    for binding in all_objects:
        if binding["kind"] not in ("RoleBinding", "ClusterRoleBinding"):
            continue
        expect([s["kind"] for s in binding["subjects"]] == ["ServiceAccount"], f"{name(binding)} binds more than the ServiceAccount")
        namespace = binding["metadata"].get("namespace", "")
        reference = binding["roleRef"]
        role = roles.pop(f"{reference['kind']} {namespace if reference['kind'] == 'Role' else ''}/{reference['name']}", None)
        expect(role, f"{name(binding)} binds a role that is not there")
        for rule in role["rules"]:
            expect("nonResourceURLs" not in rule, f"{name(role)} has nonResourceURLs")
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    key = f"{group}/{resource}"
                    found.setdefault(key, set()).update(rule["verbs"])
                    where.setdefault(key, set()).add(namespace)
                    if key == LEASES and rule["verbs"] != ["create"]: # which cannot know the name
                        expect(len(rule["resourceNames"]) == 1, "leases are not limited to one")
                    if key == CRDS:
                        expect(
                            sorted(rule["resourceNames"]) == [f"{kind}.trainyard.dev" for kind in ("pipelineruns", "pipelines", "trainingjobs")],
                            "customresourcedefinitions are not limited to ours",
                        )
    for key in sorted(set(found) | set(expected)):
        allowed = set(expected.get(key, "").split())
        expect(found.get(key, set()) == allowed, f"the operator has {sorted(found.get(key, []))} on {key}, not {sorted(allowed)}")
    expect("" not in where[LEASES], "leases are not limited to the operator's namespace")
    for left in roles.values():
        labels = [label for label in left["metadata"]["labels"] if label.startswith("rbac.authorization.k8s.io/aggregate-to-")]
        expect(left["kind"] == "ClusterRole" and labels, f"{name(left)} is neither bound nor aggregated")
        for rule in left["rules"]:
            own = rule["apiGroups"] == ["trainyard.dev"]
            use = rule["apiGroups"] == [""] and rule["resources"] == ["serviceaccounts"] and rule["verbs"] == ["use"]
            expect("*" not in rule["verbs"] and (own or use), f"{name(left)} gives people {rule}")
    print(" ".join(sorted(where["/pods"])) or "all namespaces")


def pods(all_objects):
    (deployment,) = [one for one in all_objects if one["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    expect(pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}, "Pod securityContext")
    restricted = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    expect(container["securityContext"] == restricted, "container securityContext")
    expect(not {"volumes", "hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(pod), "volumes or host access")
    expect(container["livenessProbe"]["httpGet"]["path"] == "/livez" and container["readinessProbe"]["httpGet"]["path"] == "/readyz", "probes")
    expect("limits" in container["resources"] and "requests" in container["resources"], "resources")
    for variable in container["env"]:
        value = variable.get("value")
        if variable["name"] in ("TRAINYARD_DEFAULT_STORE", "TRAINYARD_DEFAULT_RESOURCES"):
            value = json.dumps(json.loads(value), sort_keys=True)
        expect(value is not None or "fieldRef" in variable["valueFrom"], f"{variable['name']} is read from another object")
        if value is not None:
            expect(isinstance(value, str), f"{variable['name']} is no string")
            print(f"{variable['name']}={value}")
    print(f"image={container['image']}")
    print(f"replicas={deployment['spec']['replicas']} strategy={deployment['spec']['strategy']['type']}")


def network(all_objects):
    (policy,) = [one["spec"] for one in all_objects if one["kind"] == "NetworkPolicy"]
    (deployment,) = [one["spec"] for one in all_objects if one["kind"] == "Deployment"]
    expect(policy["podSelector"] == deployment["selector"], "the NetworkPolicy does not select the operator")
    for service in all_objects:
        if service["kind"] == "Service":
            expect(service["spec"]["selector"] == deployment["selector"]["matchLabels"], f"{name(service)} does not select the operator")
    expect(policy["policyTypes"] == ["Ingress", "Egress"], "policyTypes")
    report, health = policy["ingress"]
    expect(report == {"ports": [{"port": "report", "protocol": "TCP"}], "from": [{"namespaceSelector": {}}]}, f"reports: {report}")
    expect(health["ports"] == [{"port": "health", "protocol": "TCP"}], f"metrics: {health}")
    dns, server = policy["egress"]
    expect(dns == {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}, f"DNS: {dns}")
    print("metrics from", json.dumps(health.get("from", "everywhere")))
    print("to", json.dumps(server.get("to", "everywhere")), [port["port"] for port in server["ports"]])


def plain(one):
    """Without what only Helm and kustomize add, and with the environment by name: kustomize puts what it patches first."""
    meta = one["metadata"]
    for key in ("helm.sh/chart", "app.kubernetes.io/managed-by"):
        meta.get("labels", {}).pop(key, None)
    meta.get("annotations", {}).pop("helm.sh/resource-policy", None)
    for key in ("labels", "annotations"):
        if not meta.get(key):
            meta.pop(key, None)
    if one["kind"] == "Deployment":
        template = one["spec"]["template"]
        for key in ("helm.sh/chart", "app.kubernetes.io/managed-by"):
            template["metadata"]["labels"].pop(key, None)
        for container in template["spec"]["containers"]:
            container["env"].sort(key=lambda variable: variable["name"])
    return one


def difference(left, right, path=""):
    """The first place where the two differ."""
    if isinstance(left, dict) and isinstance(right, dict):
        for key in sorted(set(left) | set(right)):
            if left.get(key) != right.get(key):
                return difference(left.get(key), right.get(key), f"{path}.{key}")
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        for index, (one, two) in enumerate(zip(left, right)):
            if one != two:
                return difference(one, two, f"{path}[{index}]")
    return f"{path}: {json.dumps(left)[:200]} is not {json.dumps(right)[:200]}"


def same(all_objects, other):
    left, right = ({name(one): plain(one) for one in some if one["kind"] != "Namespace"} for some in (all_objects, other))
    for key in sorted(set(left) | set(right)):
        expect(key in left and key in right, f"{key} is only on one side")
        if left[key] != right[key]:
            sys.exit(f"error: {key}{difference(left[key], right[key])}")
    print(f"{len(left)} objects")


def main():
    command, *rest = sys.argv[1:]
    given = objects(sys.stdin.read())
    if command == "rights":
        rights(given, OPERATOR | GANG if rest == ["gang"] else OPERATOR)
    elif command == "pods":
        pods(given)
    elif command == "network":
        network(given)
    elif command == "same":
        with open(rest[0], encoding="utf-8") as file:
            same(given, objects(file.read()))
    else:
        sys.exit(__doc__)


main()
