#!/usr/bin/env bash
# Real clients against the real server, outside CI: makes their environments, starts `ettin-run serve`, runs each client's
# script and prints a table. A check compares what a client got with what the command line answers, value by value.
#
#   scripts/clients/run.sh [NAME…]        with_openai.py with_cohere.py …; all of them without names
#
# ETTIN_BINARY        the binary (target/release/ettin-run, else target/debug/ettin-run)
# ETTIN_CLIENTS_ENV   where environments are made and kept (target/clients)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
binary=${ETTIN_BINARY:-}
for built in "$root/target/release/ettin-run" "$root/target/debug/ettin-run"; do
    [ -n "$binary" ] || { [ -x "$built" ] && binary=$built; } || true
done
[ -n "$binary" ] || { echo "build the binary first: cargo build --release" >&2; exit 2; }
environments=${ETTIN_CLIENTS_ENV:-$root/target/clients}
mkdir -p "$environments"

# Nothing is asked of anyone but the server: no models, no price lists, no telemetry.
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 HAYSTACK_TELEMETRY_ENABLED=False ANONYMIZED_TELEMETRY=False DO_NOT_TRACK=1
export LITELLM_LOCAL_MODEL_COST_MAP=True OPENAI_API_KEY=none HF_TOKEN=none CO_API_KEY=none HF_API_TOKEN=none
export PIP_DISABLE_PIP_VERSION_CHECK=1 ETTIN_BINARY=$binary ETTIN_MODELS=$root/models
export no_proxy=127.0.0.1 NO_PROXY=127.0.0.1

# Makes an environment unless it is there already as it should be.
environment() {
    local name=$1 requirements=$here/requirements-$1.txt
    if ! cmp -s "$requirements" "$environments/$name/made-from.txt"; then
        python3 -m venv --clear "$environments/$name"
        "$environments/$name/bin/pip" install --quiet --no-compile -r "$requirements"
        cp "$requirements" "$environments/$name/made-from.txt"
    fi
}

work=$(mktemp -d)
servers=()
end() {
    [ ${#servers[@]} -eq 0 ] || kill "${servers[@]}" 2>/dev/null || true
    rm -rf "$work"
}
trap end EXIT

# serve NAME MODEL…: starts a server and leaves its address in `address`.
serve() {
    local name=$1 flags=()
    shift
    for model in "$@"; do flags+=(--model "$model"); done
    "$binary" serve --hostname 127.0.0.1 --port 0 "${flags[@]}" 2>"$work/$name.log" &
    servers+=($!)
    for _ in $(seq 600); do
        address=$(sed -n 's/^listening on //p' "$work/$name.log")
        if [ -n "$address" ] && curl --silent --fail "$address/health" >"$work/health"; then return; fi
        sleep 0.1
    done
    cat "$work/$name.log" >&2
    exit 1
}

# Clients that post to `/` name no model: each task has a server of its own.
models=$ETTIN_MODELS
serve all nano-encoder nano-decoder "ranker=$models/tiny-text-rerank-sigmoid"
export ETTIN_URL=$address
urls=
of_one_task="rerank=tiny-text-rerank-sigmoid classify=tiny-text-classify-single tag=tiny-text-tag answer=tiny-text-answer"
for pair in $of_one_task generate=nano-decoder; do
    case $pair in
        *=nano-*) serve "${pair%%=*}" "${pair#*=}" ;;
        *) serve "${pair%%=*}" "$models/${pair#*=}" ;;
    esac
    urls="$urls${urls:+, }\"${pair%%=*}\": \"$address\""
done
export ETTIN_URLS="{$urls}"

langchain="with_openai.py with_huggingface_hub.py with_langchain.py with_llama_index.py with_tei_client.py"
haystack="with_haystack.py with_chroma.py with_litellm.py with_cohere.py"
scripts=${*:-$langchain $haystack with_openai.mjs with_hugging_face.mjs}
rows=$work/rows
failed=0
for script in $scripts; do
    case " $langchain " in *" $script "*) python=langchain ;; *) python=haystack ;; esac
    case $script in
        *.py)
            environment $python
            command=("$environments/$python/bin/python" "$here/$script")
            ;;
        *)
            # Modules are looked for beside the script that names them.
            mkdir -p "$environments/js"
            cp "$here"/*.mjs "$here/package.json" "$environments/js/"
            [ -d "$environments/js/node_modules" ] || (cd "$environments/js" && npm install --silent --no-audit --no-fund)
            command=(node "$environments/js/$script")
            ;;
    esac
    if ! "${command[@]}" >"$work/out" 2>"$work/err"; then
        failed=1
        # A script that stopped before its last check has said why.
        grep -q FAILED "$work/out" ||
            printf '%s\t%s\tFAILED\t\t%s\n' "$script" "the script itself" "$(tail -n 1 "$work/err")" >>"$work/out"
    fi
    cat "$work/out" >>"$rows"
done
sort --field-separator="$(printf '\t')" --key=1,1 --stable "$rows" | column -t -s "$(printf '\t')"
exit $failed
