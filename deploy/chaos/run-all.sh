#!/usr/bin/env bash
# Runs scenarios one after the other and sums up. With no names, every one of them.
#
#   deploy/chaos/run-all.sh [--binary FILE] [--out DIR] [--seed N] [NAME...]
#
# Exit code: 0 if every verdict is ok, 1 if a promise was broken, 2 if a run showed nothing.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
binary="$(command -v polyraft || true)"
out=""
seed=1
names=()

while (($# > 0)); do
    case "$1" in
        --binary) binary="$2" && shift 2 ;;
        --out) out="$2" && shift 2 ;;
        --seed) seed="$2" && shift 2 ;;
        -*)
            sed -n '2,6p' "${BASH_SOURCE[0]}" >&2
            exit 2
            ;;
        *) names+=("$1") && shift ;;
    esac
done
if [[ ! -x "$binary" ]]; then
    echo "run-all.sh: no polyraft to run: give one with --binary" >&2
    exit 2
fi
if ((${#names[@]} == 0)); then
    for file in "$here"/scenarios/*.toml; do
        names+=("$(basename "$file" .toml)")
    done
fi

worst=0
summary=()
for name in "${names[@]}"; do
    command=("$binary" chaos run "$here/scenarios/$name.toml" --seed "$seed")
    if [[ -n "$out" ]]; then
        command+=(--out "$out/$name")
    fi
    printf '=== %s\n' "$name"
    began="$SECONDS"
    code=0
    "${command[@]}" || code="$?"
    case "$code" in
        0) verdict=ok ;;
        1) verdict=VIOLATED ;;
        2) verdict=INVALID ;;
        *) verdict="FAILED ($code)" ;;
    esac
    summary+=("$(printf '%-22s %5d s  %s' "$name" "$((SECONDS - began))" "$verdict")")
    # A broken promise says more than a run that shows nothing.
    if ((code == 1 || (code != 0 && worst == 0))); then
        worst="$((code == 1 ? 1 : 2))"
    fi
done

printf '\n=== summary\n'
printf '%s\n' "${summary[@]}" "total $SECONDS s"
exit "$worst"
