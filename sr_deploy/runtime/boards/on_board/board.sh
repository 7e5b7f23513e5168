#!/bin/sh
# Reports this machine's hardware and settings, and its power, temperatures and clocks over time.
# Reads only; needs neither root nor Python.
#
#   sh board.sh facts                            print sections `== name`, each the raw text of a source
#   sh board.sh watch FILE [SECONDS_BETWEEN=1]   append samples to FILE until killed (TERM)
#
# A sample is a line KIND SECONDS REST (seconds since 1970), also in the section `sample` of facts:
#   ina3221 T RAIL mW ...   thermal T ZONE milli-degC ...   clock T gpu_hz Hz   throttle T NAME VALUE ...
#   tegrastats T LINE       smi T INDEX, W, degC, MHz, REASONS
# In `throttle`, names ending in _event_cnt are counters since boot; the others are states that are 0
# without throttling. SRDEPLOY_ROOT is prepended to every path that is read (for tests).

ROOT=${SRDEPLOY_ROOT:-}
LC_ALL=C
PATH=$PATH:/usr/bin:/usr/sbin:/sbin:/usr/local/cuda/bin  # a command sent over SSH gets a short PATH
export LC_ALL PATH

limited=
timeout 10 true 2>/dev/null && limited='timeout 10'  # older busybox wants `timeout -t 10`
stamp=%s.%N
case $(date +$stamp) in *[!0-9.]*|*.) stamp=%s ;; esac

# get FILE: set $value to its first line, with the shell's read: a process for each would load the board
get() {
    value=
    { IFS= read -r value <"$1" || [ -n "$value" ]; } 2>/dev/null
}

# number FILE: the same; fails unless it is a whole number, because an idle sensor may report nothing or text
number() {
    get "$1" && case ${value#-} in ''|*[!0-9]*) false ;; esac
}

# make $value one word
word() {
    case $value in *[[:space:]]*) value=$(printf %s "$value" | tr -s '[:space:]' _) ;; esac
}

# section NAME COMMAND ...: print the command's output under a heading, unless it is empty
section() {
    name=$1
    shift
    text=$("$@" 2>/dev/null)
    [ -z "$text" ] || printf '== %s\n%s\n\n' "$name" "$text"
}

# run COMMAND ...: if it exists, with a time limit: it may hang on a dead driver
run() {
    command -v "$1" >/dev/null && $limited "$@" </dev/null
}

# show FILE ...: print PATH VALUE of each file that can be read
show() {
    for file; do
        if [ -f "$file" ] && get "$file"; then printf '%s %s\n' "${file#"$ROOT"}" "$value"; fi
    done
}

# print the folders of GPU clocks: by class, or by device on L4T 32; gpu-nvd is a video engine
gpu_folders() {
    for folder in "$ROOT"/sys/class/devfreq/* "$ROOT"/sys/devices/gpu.0/devfreq/*; do
        case ${folder##*/} in
            *nvd*) ;;
            *gpu*|*.gv11b|*.ga10b|*.gp10b|*.gm20b) [ -d "$folder" ] && echo "$folder" ;;
        esac
    done
}

sample() {
    now=$(date +$stamp)

    line=
    for name in "$ROOT"/sys/bus/i2c/drivers/ina3221x/*/iio:device*/rail_name_*; do  # L4T 32: power, in mW
        get "$name" || continue
        word
        label=$value
        number "${name%/*}/in_power${name##*_}_input" && line="$line $label $value"
    done
    for name in "$ROOT"/sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*/in*_label; do  # L4T 35 and later: mV and mA
        get "$name" || continue
        word
        label=$value
        channel=${name##*/in}
        channel=${channel%_label}
        number "${name%/*}/in${channel}_input" || continue
        millivolt=$value
        number "${name%/*}/curr${channel}_input" && line="$line $label $((millivolt * value / 1000))"
    done
    [ -z "$line" ] || echo "ina3221 $now$line"

    line=
    for zone in "$ROOT"/sys/class/thermal/thermal_zone*; do
        get "$zone/type" || continue
        word
        label=$value
        number "$zone/temp" && line="$line $label $value"
    done
    [ -z "$line" ] || echo "thermal $now$line"

    for folder in $gpu; do
        number "$folder/cur_freq" && echo "clock $now gpu_hz $value" && break
    done

    line=
    for file in "$ROOT"/sys/class/hwmon/hwmon*/oc[0-9]_event_cnt; do  # L4T 35 and later
        number "$file" && label=${file##*/} && line="$line $label $value"
    done
    for file in "$ROOT"/sys/kernel/debug/bpmp/debug/soctherm/oc*/event_cnt; do  # for root only
        number "$file" && label=${file%/*} && line="$line bpmp_${label##*/}_event_cnt $value"
    done
    for device in "$ROOT"/sys/class/thermal/cooling_device*; do  # without fans, lamps and alerts
        get "$device/type" || continue
        word
        label=$value
        case $label in
            *fan*|*Fan*|*surface*) ;;
            *throttle*|*balanced*|*cpufreq*|*devfreq*|*gpu*|*GPU*|*.gv11b|*.ga10b|*.gp10b|Processor)
                number "$device/cur_state" && line="$line $label:${device##*cooling_device} $value" ;;  # a type is not unique
        esac
    done
    [ -z "$line" ] || echo "throttle $now$line"
}

model() { tr -d '\000' <"$ROOT/proc/device-tree/model"; }

compatible() { tr '\000' '\n' <"$ROOT/proc/device-tree/compatible"; }

packages() {
    run dpkg-query ${ROOT:+"--admindir=$ROOT/var/lib/dpkg"} -W -f '${Package} ${Version}\n' nvidia-jetpack nvidia-l4t-core tensorrt \
        'libnvinfer[0-9]' 'libnvinfer[0-9][0-9]' 'libnvinfer-bin' 'cuda-toolkit-[0-9]*' 'cuda-cudart-[0-9]*'
}

cuda() {
    cat "$ROOT/usr/local/cuda/version.json" || cat "$ROOT/usr/local/cuda/version.txt" || { [ -n "$ROOT" ] || run nvcc --version; }
}

locked() { [ "$(id -u)" = 0 ] && run jetson_clocks --show; }  # needs root even for --show

clocks() {
    for folder in $gpu; do
        show "$folder/min_freq" "$folder/max_freq" "$folder/cur_freq" "$folder/available_frequencies" "$folder/governor"
    done
    for folder in "$ROOT"/sys/devices/system/cpu/cpufreq/policy*; do
        show "$folder/scaling_min_freq" "$folder/scaling_max_freq" "$folder/scaling_cur_freq" "$folder/scaling_governor"
    done
    show "$ROOT"/sys/kernel/nvpmodel_emc_cap/emc_iso_cap
    for file in rate min_rate max_rate mrq_rate_locked; do show "$ROOT/sys/kernel/debug/bpmp/debug/clk/emc/$file"; done
}

cooling() {
    for device in "$ROOT"/sys/class/thermal/cooling_device*; do show "$device/type" "$device/cur_state" "$device/max_state"; done
}

alarms() { show "$ROOT"/sys/class/hwmon/hwmon*/oc[0-9]_throt_en "$ROOT"/sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*/curr*_alarm; }

# smi FIELDS OPTION ...: nvidia-smi with these fields and the slowdown reasons, by their newer or older name;
# it fails on unknown fields
smi() {
    fields=$1
    shift
    for reasons in clocks_event_reasons.active clocks_throttle_reasons.active; do
        text=$(run nvidia-smi --query-gpu="$fields,$reasons" "$@" 2>/dev/null) && printf '%s\n' "$text" && return
    done
    false
}

gpus() {
    fields=index,name,driver_version,persistence_mode,pstate,clocks.sm,clocks.max.sm,clocks.mem,power.draw,power.limit
    fields=$fields,temperature.gpu,memory.total
    for more in "$fields,compute_cap" "$fields"; do smi "$more" --format=csv && return; done  # drivers before 510 lack compute_cap
}

processor() { grep -i -E '^(model name|hardware|cpu part)' "$ROOT/proc/cpuinfo" | sort -u; }

facts() {
    section nv_tegra_release cat "$ROOT/etc/nv_tegra_release"
    section model model
    section compatible compatible
    section uname uname -a
    section os_release cat "$ROOT/etc/os-release"
    section packages packages
    section cuda cuda
    section nvpmodel run nvpmodel -q
    section jetson_clocks locked
    section clocks clocks
    section sample sample
    section cooling cooling
    section alarms alarms
    section nvidia_smi gpus
    section memory grep MemTotal "$ROOT/proc/meminfo"
    section load cat "$ROOT/proc/loadavg"
    section processor processor
}

# follow KIND COMMAND ...: append each line of its output to the file, through a named pipe, so that both can be killed
follow() {
    kind=$1
    shift
    pipe=${TMPDIR:-/tmp}/srdeploy-board.$$  # not in the file's folder: its file system may not support pipes
    mkfifo -m 600 "$pipe" 2>/dev/null || { pipe=; return; }
    "$@" >"$pipe" 2>/dev/null </dev/null &
    children=$!
    while IFS= read -r line; do
        kill -0 $$ 2>/dev/null || break  # this script was killed with KILL
        [ -z "$line" ] || printf '%s %s %s\n' "$kind" "$(date +$stamp)" "$line"
    done <"$pipe" >>"$log" &
    children="$children $!"
}

stop() {
    trap - EXIT TERM INT HUP
    kill $children $nap 2>/dev/null
    wait $children $nap 2>/dev/null  # after this nothing writes to the file
    [ -z "$pipe" ] || rm -f "$pipe"
}

watch() {
    log=$1 every=$2 children= nap= pipe=
    sleep 0.01 2>/dev/null || case $every in *.*) every=$((${every%%.*} + 1)) ;; esac  # this sleep takes whole seconds only
    trap stop EXIT
    trap 'exit 0' TERM INT HUP
    : >>"$log" || exit 1  # once the file exists, TERM may be sent
    milliseconds=$(awk "BEGIN { printf \"%d\", $every * 1000 }" 2>/dev/null)
    fields=index,power.draw,temperature.gpu,clocks.sm
    if command -v tegrastats >/dev/null; then
        follow tegrastats tegrastats --interval "${milliseconds:-1000}"
    elif smi $fields --format=csv >/dev/null; then
        follow smi nvidia-smi --query-gpu="$fields,$reasons" --format=csv,noheader,nounits -lms "${milliseconds:-1000}"
    fi
    while :; do
        sample >>"$log" 2>/dev/null
        sleep "$every" &
        nap=$!
        wait $nap  # unlike sleep itself, it ends at once at a signal
    done
}

usage() {
    echo "usage: sh board.sh facts | watch FILE [SECONDS_BETWEEN]" >&2
    exit 2
}

gpu=$(gpu_folders)
case ${1:-} in
    facts) facts; exit 0 ;;
    watch)
        [ -n "${2:-}" ] || usage
        case ${3:-1} in *[!0-9.]*|*.*.*|.*|*.) usage ;; *[1-9]*) ;; *) usage ;; esac
        watch "$2" "${3:-1}" ;;
    *) usage ;;
esac
