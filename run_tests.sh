#!/usr/bin/env bash
# Builds the runner if needed and runs it with the same arguments (`-h` tells them).
# Arguments of its own:
#   --no-setup    install nothing: say which command would
#   --self-test   set up, then pass the project's own tests
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
setup=yes
self_test=no
arguments=()
for argument in "$@"; do
    case $argument in
        --no-setup) setup=no ;;
        --self-test) self_test=yes ;;
        *) arguments+=("$argument") ;;
    esac
done

say() {
    printf '%s\n' "$*" >&2
}

# Whether the Rust at hand is as new as Cargo.toml asks.
rust_is_new_enough() {
    local wanted have
    command -v cargo >/dev/null || return 1
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml" | head -n 1)
    have=$(cd "$root" && rustc --version 2>/dev/null | cut -d ' ' -f 2) || return 1
    [[ -n $have ]] && printf '%s\n%s\n' "$wanted" "$have" | sort --version-sort --check=quiet
}

# The commands that install what is missing, one a line.
missing() {
    local packages=()
    command -v cc >/dev/null || packages+=(gcc libc6-dev)
    command -v ld >/dev/null || packages+=(binutils)
    if ! rust_is_new_enough && ! command -v rustup >/dev/null; then
        # Debian's own up-to-date Rust, from its security archive.
        packages+=(cargo-web rustc-web)
    fi
    if ((${#packages[@]} > 0)); then
        printf 'apt-get install -y --no-install-recommends %s\n' "${packages[*]}"
    fi
    if ! rust_is_new_enough && command -v rustup >/dev/null; then
        printf 'rustup toolchain install stable --profile minimal && rustup default stable\n'
    fi
}

set_up() {
    local commands command
    # An earlier set-up may have put Rust where this shell does not look.
    [[ -d ${CARGO_HOME:-$HOME/.cargo}/bin ]] && PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    commands=$(missing)
    [[ -z $commands ]] && return
    if [[ $setup == no ]] || { [[ $commands == *apt-get* ]] && ((EUID != 0)); }; then
        say "error: something is missing to build the tests; install it with:"
        say "$commands"
        exit 2
    fi
    while IFS= read -r command; do
        say "set-up: $command"
        if [[ $command == apt-get* ]]; then
            apt-get update -qq
            command="DEBIAN_FRONTEND=noninteractive $command -qq"
        fi
        # Everything on standard error: standard output belongs to the results.
        if ! bash -c "$command" >&2 </dev/null; then
            say "error: that did not work; nothing was run"
            exit 2
        fi
    done <<<"$commands"
    PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
}

build() {
    local log status=0
    log=$(cargo build --release --quiet --manifest-path "$root/Cargo.toml" \
        -p suites --bin kvm-conformance 2>&1) || status=$?
    if ((status != 0)); then
        say "$log"
        say "error: the tests do not build"
        exit 2
    fi
}

set_up
if [[ $self_test == yes ]]; then
    cd "$root"
    exec cargo test --workspace "${arguments[@]}"
fi
build
target=${CARGO_TARGET_DIR:-$root/target}
export KVM_CONFORMANCE_COMMAND=${KVM_CONFORMANCE_COMMAND:-$0}
export KVM_CONFORMANCE_ROOT=$root
host=$(rustc -vV | sed -n 's/^host: //p')
exec "$target/$host/release/kvm-conformance" "${arguments[@]}"
