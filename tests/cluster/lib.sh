# shellcheck shell=bash
# Shared by the scripts of this folder, which source it: names, address ranges and small helpers.
#
# Every container, network and volume of the test cluster carries $LABEL, so that `down` removes
# precisely those. Every address range is written here and nowhere else.

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
REPO=$(cd "$HERE/../.." && pwd)
STAGING=$REPO/target/staging                # what the user of the cluster needs: kubeconfig, bin/kubectl
CACHE=${TPDOCKER_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/tpdocker}

LABEL=dev.tpdocker.test=staging
NODE=tpdocker-staging-node                  # container: the one node of the cluster
DATABASE=tpdocker-staging-rds               # container: the "RDS"
NODE_NETWORK=tpdocker-staging-node          # Docker network: how the host reaches the node
VPC_NETWORK=tpdocker-staging-vpc            # Docker network: node and database, nothing else

# None of these overlap Docker's default pools (172.17-31.*, 192.168.*) or one another.
NODE_SUBNET=10.231.10.0/24 NODE_GATEWAY=10.231.10.1 NODE_IP=10.231.10.10
VPC_SUBNET=10.231.20.0/24 VPC_NODE_IP=10.231.20.10 DATABASE_IP=10.231.20.20
POD_CIDR=10.244.0.0/16 SERVICE_CIDR=10.96.0.0/16 DNS_IP=10.96.0.10
# Addresses that pods reach nobody at, each in its own way (see nowhere).
HOST_UNREACHABLE=10.231.30.1 NET_UNREACHABLE=10.231.30.2 FILTERED=10.231.30.3
DATABASE_NAME=mydb.abc123.us-east-1.rds.amazonaws.com

IMAGES=tpdocker-test                        # repository prefix of the images that only the tests use
BASE_IMAGE=$IMAGES/debian:bookworm
export HERE REPO STAGING CACHE LABEL NODE DATABASE NODE_NETWORK VPC_NETWORK NODE_SUBNET NODE_GATEWAY NODE_IP
export HOST_UNREACHABLE NET_UNREACHABLE FILTERED
export VPC_SUBNET VPC_NODE_IP DATABASE_IP POD_CIDR SERVICE_CIDR DNS_IP DATABASE_NAME IMAGES BASE_IMAGE

# === what a person sees: all on stderr, stdout is for results ===

say() { printf '  %s\n' "$*" >&2; }

die() { # message [cure]
    printf 'error: %s\n' "$1" >&2
    [ $# -lt 2 ] || printf ' hint: %s\n' "$2" >&2
    exit 1
}

# step TEXT COMMAND...: runs the command and prints the text with the seconds it took.
step() {
    local text=$1 from=$EPOCHREALTIME
    shift
    "$@" || die "$text: failed"
    awk -v a="$from" -v b="$EPOCHREALTIME" -v t="$text" 'BEGIN { printf "  %-58s %6.1f s\n", t, b - a }' >&2
}

# wait_for SECONDS WHAT COMMAND...: until the command succeeds.
wait_for() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || {
            printf 'error: waited in vain for %s\n' "$what" >&2
            return 1
        }
        sleep 0.2
    done
}

# === things that more than one script asks ===

have_image() { docker image inspect "$1" >/dev/null 2>&1; }

# build_image NAME CONTEXT [FLAG...]: says nothing unless it fails. Images do not get $LABEL: whatever
# somebody else runs from them would inherit it.
build_image() {
    local image=$1 context=$2 log
    log=$CACHE/build-$(tr -c 'a-z0-9\n' - <<<"$1").log
    shift 2
    mkdir -p "$CACHE"
    docker build -t "$image" --build-arg BASE="$BASE_IMAGE" "$@" "$context" >"$log" 2>&1 || {
        tail -n 20 "$log" >&2
        die "image $image could not be built" "see $log"
    }
}

# drop_other_tags IMAGE: what earlier sources made of the same image. One that is in use stays.
drop_other_tags() {
    local other
    for other in $(docker images --format '{{.Repository}}:{{.Tag}}' "${1%:*}"); do
        [ "$other" = "$1" ] || docker rmi "$other" >/dev/null 2>&1 || true
    done
}

# content_tag FILE_OR_DIR...: a short hash of names and contents, for image tags.
content_tag() {
    find "$@" -type f -not -path '*/target/*' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum \
        | sed "s|$REPO/||" | sha256sum | cut -c1-12
}

# The flags that let a container be a Kubernetes node. `--privileged` is the usual way; an engine that
# itself lacks a capability cannot grant it, and there the parts of it that matter are named one by one.
# One flag a line.
node_privileges() {
    if [ "$(docker run --rm --privileged --network none --label "$LABEL" "$BASE_IMAGE" echo yes 2>/dev/null)" = yes ]; then
        echo --privileged
    else
        printf '%s\n' --cap-add=ALL --cap-drop=SYS_RESOURCE --security-opt=seccomp=unconfined \
            --security-opt=apparmor=unconfined --security-opt=systempaths=unconfined \
            '--device-cgroup-rule=a *:* rwm'
    fi
}

# debian_mirror Debian|Debian-Security: where this machine's own apt gets Debian's packages from.
# Nothing else here knows a mirror. Empty and non-zero on a machine that has none.
debian_mirror() {
    command -v apt-get >/dev/null || return 1
    # shellcheck disable=SC2016 # these are apt's placeholders
    apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' \
        | awk -F'|' -v label="$1" '$1 == "Debian" && $2 == label && !n++ { print $3 } END { exit !n }'
}
DEBIAN_KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

# apt_of DIRECTORY SUITE COMMAND...: an apt-get that knows one suite of Debian and keeps everything it
# knows in the directory, away from the system's own apt.
apt_of() {
    local directory=$1 suite=$2
    shift 2
    if [ ! -s "$directory/sources.list" ]; then
        mkdir -p "$directory/lists/partial" "$directory/cache/archives/partial"
        printf 'deb [signed-by=%s] %s %s main\n' "$DEBIAN_KEYRING" "$(debian_mirror Debian)" "$suite" >"$directory/sources.list"
        touch "$directory/status"
        apt_of "$directory" "$suite" -q update >&2
    fi
    apt-get -o Dir::Etc::sourcelist="$directory/sources.list" -o Dir::Etc::sourceparts=- \
        -o Dir::State::lists="$directory/lists" -o Dir::Cache="$directory/cache" \
        -o Dir::State::status="$directory/status" -o APT::Sandbox::User=root "$@"
}

# unpack_debs DIRECTORY SUITE PACKAGE...: unpacks packages, without what they depend on, into directory/root.
unpack_debs() {
    local directory=$1 suite=$2
    shift 2
    mkdir -p "$directory/debs" "$directory/root"
    (cd "$directory/debs" && apt_of "$directory/apt-$suite" "$suite" -q download "$@") >&2
    local deb
    for deb in "$directory"/debs/*.deb; do
        dpkg -x "$deb" "$directory/root"
    done
    rm -rf "$directory/debs"
}
