#!/usr/bin/env bash
# Judges what is below this folder by the tools that load it: Prometheus' promtool (rules, their
# tests, the configuration, every expression of a dashboard) and Grafana's published schema types.
# Then every judge is given a bad sample, which it must refuse.
#
# Needs promtool, node and npm (Debian: prometheus, nodejs, npm); fetches the two packages below into a
# temporary folder.
set -euo pipefail

here="$(cd "$(dirname "$0")" && pwd)"
readonly here SCHEMA=@grafana/schema@10.4.19 TYPESCRIPT=typescript@5.4.5
scratch="$(mktemp -d)"
readonly scratch
trap 'rm -rf "$scratch"' EXIT

fetch_types() {
    echo '{"private": true}' >"$scratch/package.json"
    npm install --prefix "$scratch" --no-audit --no-fund --ignore-scripts --loglevel error \
        "$SCHEMA" "$TYPESCRIPT" >/dev/null
}

# The judges. Their commands are chained: `set -e` means nothing where a refusal is expected.

# rules DIR: rules, their tests, and the scrape configuration.
rules() {
    promtool check rules "$1"/rules/*.yml &&
        promtool test rules "$1"/rules/tests/*.yml &&
        (cd "$1" && promtool check config --syntax-only prometheus.yml)
}

# expressions DIR: every expression of a dashboard as a recording rule, with its variables filled in.
expressions() {
    node - "$1" "$scratch/expressions.yml" <<'JS' && promtool check rules "$scratch/expressions.yml"
const [folder, out] = process.argv.slice(2);
const fs = require("fs");
const filled = (expr) => expr
    .replaceAll("$cluster", ".*").replaceAll("$node", ".*").replaceAll("$__rate_interval", "1m");
const rules = [];
for (const file of fs.readdirSync(`${folder}/dashboards`).filter((f) => f.endsWith(".json"))) {
    const dashboard = JSON.parse(fs.readFileSync(`${folder}/dashboards/${file}`, "utf8"));
    const asked = [...dashboard.panels.flatMap((p) => p.targets), ...dashboard.annotations.list.map((a) => a.target)];
    for (const target of asked) {
        const expr = filled(target.expr);
        if (expr.includes("$")) throw new Error(`${file}: an unknown variable in ${target.expr}`);
        rules.push({ record: `dashboard:expression:n${rules.length}`, expr });
    }
}
// JSON is YAML.
fs.writeFileSync(out, JSON.stringify({ groups: [{ name: "dashboards", rules }] }));
JS
}

# types DIR: each dashboard as a literal of Grafana's type, so that a field too many is an error, too.
types() {
    node - "$1" "$scratch" <<'JS' && compile
const [folder, out] = process.argv.slice(2);
const fs = require("fs");
let text = fs.readFileSync(`${folder}/dashboard_types.ts`, "utf8");
const files = fs.readdirSync(`${folder}/dashboards`).filter((f) => f.endsWith(".json"));
if (files.length === 0) throw new Error("no dashboards");
files.forEach((file, at) => {
    const json = fs.readFileSync(`${folder}/dashboards/${file}`, "utf8");
    text += `\n// ${file}\nexport const dashboard${at}: CheckedDashboard = ${json.trim()};\n`;
});
fs.writeFileSync(`${out}/dashboards.ts`, text);
console.log(`${files.length} dashboards`);
JS
}

compile() {
    "$scratch/node_modules/.bin/tsc" --noEmit --strict --skipLibCheck --module esnext \
        --moduleResolution bundler --target es2022 --pretty false "$scratch/dashboards.ts"
}

# refused JUDGE NAME FILE FROM TO: a copy in which one text is replaced must not pass.
refused() {
    local judge="$1" name="$2" sample="$scratch/sample" why
    rm -rf "$sample"
    cp -r "$here" "$sample"
    FROM="$4" TO="$5" node -e '
        const fs = require("fs"), file = process.argv[1], text = fs.readFileSync(file, "utf8");
        const { FROM, TO } = process.env;
        if (!text.includes(FROM)) throw new Error(`${file} has no ${FROM}`);
        fs.writeFileSync(file, text.replace(FROM, () => TO));' "$sample/$3"
    if "$judge" "$sample" >"$scratch/refusal" 2>&1; then
        echo "!!! not refused: $name"
        return 1
    fi
    why="$(grep -A1 -m1 -iE 'error|failed' "$scratch/refusal" | tr -s ' \n' ' ')"
    printf 'refused, as it must be: %-34s %s\n' "$name" "${why:0:170}"
}

fetch_types
rules "$here"
expressions "$here"
types "$here"
refused types "a type that is not one" dashboards/storage.json '"mode":"absolute"' '"mode":"absolut"'
refused types "a text for a number" dashboards/storage.json '"h":8' '"h":"8"'
refused types "an unknown field of a dashboard" dashboards/storage.json '"editable":' '"editabel":'
refused types "an unknown field of a panel" dashboards/storage.json '"title":"Sizes"' '"title":"Sizes","subtitle":"x"'
refused types "an unknown option of a graph" dashboards/storage.json '"showPoints":' '"showPoint":'
refused types "a required field left out" dashboards/storage.json '"schemaVersion": 39,' ''
refused expressions "an expression that is none" dashboards/storage.json 'histogram_quantile(0.5,' 'histogram_quantile(0.5'
refused rules "a rule's expression that is none" rules/polyraft-alerts.yml 'increase(' 'increas('
refused rules "an alert with another threshold" rules/polyraft-alerts.yml 'polyraft_log_full >= 1' 'polyraft_log_full >= 2'
refused rules "a scrape configuration with a typo" prometheus.yml 'static_configs' 'static_config'
echo "grafana: all checks hold"
