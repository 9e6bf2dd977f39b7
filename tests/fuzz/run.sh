#!/usr/bin/env bash
# Fuzzes every target for SECONDS each, from its corpus, and fails if one of them crashes.
#
#     tests/fuzz/run.sh SECONDS [TARGET…]
#
# Needs a stable Rust and a C++ compiler, no cargo-fuzz. There is no sanitizer: the decoders hold no
# unsafe code; broken assertions and overflows are what is looked for.
#
# FUZZ_SEED repeats the same mutations; without it they are others each time.
#
# Prints a line per target: executions, edges and features covered, inputs kept, crashes. What is found
# grows a corpus in $FUZZ_OUT (a temporary folder without it), where crashes are kept too.
set -euo pipefail

here="$(cd "$(dirname "$0")" && pwd)"
seconds="${1:?how many seconds for each target}"
shift
target_dir="${CARGO_TARGET_DIR:-$here/target}"
host="$(rustc -vV | sed -n 's/^host: //p')"
out="${FUZZ_OUT:-$(mktemp -d)}"

# The counters and tables that libFuzzer reads: what `cargo fuzz` passes.
flags="--cfg fuzzing -Cpasses=sancov-module -Ccodegen-units=1
    -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares"
# A target of its own name keeps build scripts and macros out of it.
RUSTFLAGS="${RUSTFLAGS:-} $(tr -s '\n ' ' ' <<<"$flags")" CARGO_TARGET_DIR="$target_dir" \
    cargo build --locked --release --manifest-path "$here/Cargo.toml" --target "$host"
fuzz="$target_dir/$host/release/polyraft-fuzz"

status=0
targets=("$@")
if ((${#targets[@]} == 0)); then
    for corpus in "$here"/corpus/*/; do targets+=("$(basename "$corpus")"); done
fi
printf '%-8s %12s %8s %7s %7s %7s  %s\n' target executions per-s cov ft kept crashes
for target in "${targets[@]}"; do
    found="$out/$target" crashes="$out/crashes/$target"
    mkdir -p "$found" "$crashes"
    log="$out/$target.log"
    # The corpus in the tree is read; what is new goes to the first folder.
    FUZZ_TARGET="$target" "$fuzz" "$found" "$here/corpus/$target" -max_total_time="$seconds" \
        -max_len=4096 -timeout=10 -seed="${FUZZ_SEED:-0}" -rss_limit_mb=2048 -print_final_stats=1 -verbosity=1 \
        -artifact_prefix="$crashes/" >"$log" 2>&1 || status=1
    last="$(grep -E '^#[0-9]+.* cov: ' "$log" | tail -1 || true)"
    field() { sed -nE "s/.* $1: ([0-9]+).*/\1/p" <<<"$last"; }
    stat() { sed -nE "s/^stat::$1: +([0-9]+)/\1/p" "$log"; }
    printf '%-8s %12s %8s %7s %7s %7s  %s\n' "$target" "$(stat number_of_executed_units)" \
        "$(stat average_exec_per_sec)" "$(field cov)" "$(field ft)" \
        "$(stat new_units_added)" "$(find "$crashes" -type f | wc -l)"
    if [[ -n "$(ls -A "$crashes")" ]]; then
        status=1
        grep -aE "panicked at|^SUMMARY|assertion" -A3 "$log" | cut -c1-300 | head -12 || true
        echo "    kept in $crashes"
    fi
done
exit "$status"
