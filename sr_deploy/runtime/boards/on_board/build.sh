#!/bin/sh
# Builds the engines of a job with this machine's own trtexec, measures them, and writes result.tar.
#
#   sh build.sh         from any folder; TRTEXEC=/path/to/trtexec selects a trtexec
#
# It may be stopped and started again: finished engines are kept. The file `state` is `running PID`,
# `done` or `failed CODE`. Exit codes: 0 all engines are built and measured; 1 an engine failed
# (see result.tar); 2 the job is incomplete or changed; 3 no trtexec runs here; 4 its version or the
# GPU differs from the job's; 5 no space; 6 already running; 129, 130, 143 stopped by a signal.
# Needs POSIX sh, coreutils, sed, grep, tar, gzip. Each flag is first looked for in trtexec's --help:
# an unknown flag would end it.
set -u
export LC_ALL=C
CDPATH=
trap '' PIPE # a closed console must not end a build
tab=$(printf '\t')
case ${TRTEXEC:-} in /* | '') ;; */*) TRTEXEC=$PWD/$TRTEXEC ;; esac
cd -- "$(dirname -- "$0")" || exit 2

say() { printf 'srdeploy: %s\n' "$*"; }
state() { printf '%s\n' "$*" >state.tmp && mv -f state.tmp state; }
started=
die() {
    say "error: $2"
    [ -z "$started" ] || { rm -f out/*.tmp; state "failed $1"; }
    exit "$1"
}
header() { sed -n "s/^# $1 //p" job.txt | sed -n 1p; }
listed() { cut -c67- SHA256SUMS | grep -Fxq -e "$1"; }
field() { printf '%s\t%s\n' "$1" "$2"; }
sha256() { sha256sum <"$1" | cut -c1-64; }
free_kib() { df -Pk . | sed -n '$p' | tr -s ' ' | cut -d' ' -f4; }
free() { echo "$(($(free_kib) / 1024)) MiB are free in $PWD"; }
# alive PID WORD: is there this process, with WORD in its command line? (After a reboot it may be another.)
alive() { [ -n "$1" ] && kill -0 "$1" 2>/dev/null && tr '\0' ' ' <"/proc/$1/cmdline" 2>/dev/null | grep -qF -e "$2"; }
quoted() { # as a shell reads it
    case $1 in
        *[!A-Za-z0-9_./=:,@%+-]* | '') printf "'%s'" "$(printf %s "$1" | sed "s/'/'\\\\''/g")" ;;
        *) printf %s "$1" ;;
    esac
}

for tool in sha256sum sed grep tar gzip df; do command -v $tool >/dev/null || die 3 "this script needs $tool, which is not installed"; done
# --- the job ----------------------------------------------------------------------------------------------------------
for file in job.txt SHA256SUMS; do [ -f $file ] || die 2 "there is no $file in $PWD: this is not a complete job"; done
sums=$(sha256sum -c SHA256SUMS 2>&1) && listed job.txt || {
    printf '%s\n' "$sums" | grep -v ': OK$'
    die 2 "the job was changed or is incomplete (SHA256SUMS does not match) and is not used: copy it here again"
}
workspace=$(header workspace_mib) versions=$(header versions) sm=$(header sm) dla=$(header dla)
runtime=$(header runtime) fp32_layers=$(header fp32_layers) measure_s=$(header measure_s)
fp16_layers=$(header fp16_layers)
: "${dla:=-}" "${runtime:=tensorrt}" "${measure_s:=3}"
tactics=$(header tactics)
count=0 need_kib=65536 text_kib=0
while IFS=$tab read -r graph engine precision typing load shape checked min opt max rows <&3; do
    case $graph in '#'* | '') continue ;; esac
    [ -n "$rows" ] || die 2 "job.txt: the line of '$graph' has fewer than eleven fields"
    case "/$graph/$engine" in */*/*/* | */.* | */-*) die 2 "job.txt: '$graph' or '$engine' is not a plain file name" ;; esac
    case $typing-$precision in weak-fp16 | weak-fp32 | weak-int8 | strong-fp16 | strong-fp32 | strong-int8) ;; *) die 2 "job.txt: unexpected '$typing $precision'" ;; esac
    listed "$graph" || die 2 "SHA256SUMS does not cover '$graph': the job was changed; copy it here again"
    count=$((count + 1)) need_kib=$((need_kib + $(wc -c <"$graph") * 4 / 1024))
    # The output of one engine at a time, as text twice: at most 16 times the pixels, 10 bytes a value.
    # All values come back of small outputs only.
    values=1
    for n in $(printf %s "${checked##*:}" | tr x ' '); do values=$((values * n)); done
    [ "$rows" != all ] || values=50000
    [ $((values * 16 * 10 * 2 / 1024)) -le $text_kib ] || text_kib=$((values * 16 * 10 * 2 / 1024))
done 3<job.txt
[ $count -gt 0 ] || die 2 "job.txt names no engine"
need_kib=$((need_kib + text_kib))

# --- trtexec ----------------------------------------------------------------------------------------------------------
# try NAME: an existing file may fail to run (a missing library, another environment's shim), so run it.
try() {
    looked="$looked $1"
    trtexec=$(command -v "$1") || return 1
    help=$("$trtexec" --help 2>&1 </dev/null)
    code=$?
    # Formats: v8502, v100300, v11.1.0.106.
    version=$(printf '%s\n' "$help" | sed -n 's/.*\[TensorRT[^]0-9]*\([0-9][0-9.]*\).*/\1/p' | sed -n 1p)
    case $version in
        *.*) version=$(printf '%s\n' "$version" | cut -d. -f1-3) ;;
        ?????*) version=$((version / 10000)).$((version / 100 % 100)).$((version % 100)) ;;
        ????) version=$((version / 1000)).$((version / 100 % 10)).$((version % 100)) ;;
        *) looked="$looked (exit code $code: $(printf '%s\n' "$help" | sed -n 1p))" && return 1 ;;
    esac
}
find_trtexec() {
    [ -z "${TRTEXEC:-}" ] || { try "$TRTEXEC"; return; } # and no other
    for candidate in "$1" "/usr/src/tensorrt/bin/$1" /usr/local/tensorrt*/bin/"$1" "/opt/tensorrt/bin/$1"; do
        try "$candidate" && return
    done
    return 1
}
# A calibration cache of another version is ignored, without an error: random values would calibrate.
cache_of() { # of the scales in a file
    printf '%s.0.0\n' "$version" | {
        IFS=. read -r a b c rest
        if [ "$a" -lt 10 ]; then printf 'TRT-%d%d%02d-EntropyCalibration2\n' "$a" "$b" "$c"
        else printf 'TRT-%d%02d%02d-EntropyCalibration2\n' "$a" "$b" "$c"; fi
    }
    cat "$1"
}
number() { printf '%s.0.0\n' "$1" | { IFS=. read -r a b c rest && echo $((a * 10000 + b * 100 + c)); }; }
within() {
    for bound in $(printf %s "$versions" | tr , ' '); do
        case $bound in
            '>='*) [ "$(number "$version")" -ge "$(number "${bound#>=}")" ] || return 1 ;;
            '<'*) [ "$(number "$version")" -lt "$(number "${bound#<}")" ] || return 1 ;;
            *) die 2 "job.txt: versions '$versions': expected for example >=8.5,<8.6" ;;
        esac
    done
}
looked= name=trtexec
[ "$runtime" != tensorrt-rtx ] || name=tensorrt_rtx
find_trtexec $name || die 3 "no $name runs here; tried:$looked; install TensorRT's, or set TRTEXEC=/path/to/$name"
say "$trtexec, TensorRT $version"
within || die 4 "TensorRT $version is installed, but the job is for $versions: export for this version, or use another machine"
# Only at the start of a line of --help: the descriptions mention other flags, too.
flags=" $(printf '%s\n' "$help" | sed -n 's/^ \{0,4\}\(--[A-Za-z][A-Za-z0-9]*\).*/\1/p' | tr '\n' ' ')"
has() { case $flags in *" $1 "*) ;; *) return 1 ;; esac; }
# add FLAG[=VALUE]: append it to the shell command in $line; fails if this trtexec lacks the flag.
add() { has "${1%%=*}" && line="$line $(quoted "$1")"; }

# --- the start --------------------------------------------------------------------------------------------------------
pid=
[ ! -f state ] || read -r word pid <state
if [ "${word:-}" = running ] && alive "$pid" build.sh; then die 6 "already running here, as process $pid"; fi
stop() { # end the trtexec of this script, or of one that was killed: it would overwrite the engine
    pid=
    [ ! -s work/pid ] || read -r pid <work/pid
    if alive "$pid" Engine=out/; then kill "$pid"; fi
    [ -z "$watcher" ] || { kill "$watcher" && wait "$watcher"; } 2>/dev/null
    watcher=
}
interrupted() { trap '' HUP INT TERM; stop; wait; die "$1" "stopped; run it again to continue"; }
trap 'interrupted 129' HUP
trap 'interrupted 130' INT
trap 'interrupted 143' TERM
watcher=
mkdir -p out work && state "running $$" || die 5 "cannot write; $(free)"
started=1
stop
rm -f result.tar work/pid work/results out/*.tmp
{ field trtexec "$trtexec" && field version "$version" && cat SHA256SUMS; } >work/new
# Remove the files of another job or another TensorRT.
cmp -s work/new work/job || { rm -rf out work/*.built work/*.measured work/timing.cache && mkdir out && mv -f work/new work/job; }
[ "$(free_kib)" -ge $need_kib ] || die 5 "the disk is full: $(free), about $((need_kib / 1024)) MiB are needed"
[ -s work/timing.cache ] || ! listed timing.cache || cp timing.cache work/timing.cache # a copy: the job's own must not change
[ ! -f board.sh ] || sh board.sh facts >out/board.txt 2>&1 </dev/null

# run LOG: run $line; write its output to LOG and stdout, set $code. In the background, so that traps run.
run() {
    rm -f work/code
    { eval "$line &"; echo $! >work/pid; wait $!; echo $? >work/code; } 2>&1 | tee "$1" &
    wait $!
    read -r code <work/code || code=1
    rm -f work/pid
    return "$code"
}
errors_of() { # the last error lines of a log, else its last lines
    { grep -F '[E]' "$1" || cat "$1"; } | tail -n 5 | tr '\t\r' '  ' | sed -n "s/^./error$tab&/p"
}

# --- one engine -------------------------------------------------------------------------------------------------------
build_line() { # set $line to the command, $why to a reason why it cannot be built
    line=$(quoted "$trtexec") why=
    add "--onnx=$graph" && add "--saveEngine=$out.tmp"
    case $typing-$precision in
        weak-fp16) add --fp16 || why="TensorRT $version has no --fp16, it is strongly typed: it needs a graph of FP16 tensors" ;;
        weak-int8) # FP16 for the layers that are not quantised
            { add --int8 && add --fp16; } || why="TensorRT $version has no --int8, it is strongly typed: it needs a graph with FP16 tensors between its Q/DQ pairs" ;;
        strong-*) # with neither flag, every network is strongly typed
            add --stronglyTyped || ! has --fp16 || why="TensorRT $version has no --stronglyTyped: it needs an FP32 graph and --fp16" ;;
    esac
    [ "$precision" != fp32 ] || add --noTF32 # on by default where the GPU has it: 10 bits of mantissa
    [ -z "$fp32_layers" ] || [ "$precision" = fp32 ] || {
        [ "$typing" = weak ] && add --precisionConstraints=obey &&
            add "--layerPrecisions=$(printf %s "$fp32_layers" | sed 's/;/:fp32,/g'):fp32" &&
            add "--layerOutputTypes=$(printf %s "$fp32_layers" | sed 's/;/:fp32,/g'):fp32"
    } || why="TensorRT $version cannot keep layers of a $typing network in FP32 (no --layerPrecisions)"
    if listed "$graph.scales"; then # INT8 on a DLA: the graph has no Q/DQ pairs
        cache_of "$graph.scales" >work/calibration.cache
        add --calib=work/calibration.cache || why="TensorRT $version has no --calib"
        [ -z "$fp16_layers" ] || {
            add --precisionConstraints=obey && add "--layerPrecisions=$(printf %s "$fp16_layers" | sed 's/;/:fp16,/g'):fp16"
        } || why="TensorRT $version cannot keep layers in FP16 (no --layerPrecisions)"
    fi
    [ "$dla" = - ] || { add "--useDLACore=$dla" && add --allowGPUFallback; } || why="TensorRT $version has no --useDLACore"
    # From 11 on there are no kernels of cuBLAS and cuDNN.
    [ -z "$tactics" ] || [ "$runtime" = tensorrt-rtx ] || [ "$(number "$version")" -ge 110000 ] ||
        add "--tacticSources=$tactics"
    [ "${workspace:-0}" = 0 ] || add "--memPoolSize=workspace:$workspace" || add "--workspace=$workspace"
    [ "$runtime" != tensorrt-rtx ] || [ -z "$sm" ] || add "--computeCapabilities=$sm"
    # A static graph must have no shapes.
    [ "$opt" = - ] || { add "--minShapes=$min" && add "--optShapes=$opt" && add "--maxShapes=$max"; }
    add --timingCacheFile=work/timing.cache; add --profilingVerbosity=detailed
    add "--exportLayerInfo=$out.layers.json" || add --dumpLayerInfo
    has --exportLayerInfo || [ "$precision" != int8 ] || add --verbose # it lists the layers in the log
    add --skipInference || add --buildOnly
}
# If trtexec reports no layer types: build an FP32 engine, whose size tells the precision. Not for
# the DLA, for which 8.0 turns FP16 on by itself.
twin() {
    [ "$typing-$precision-$dla" = weak-fp16-- ] && ! has --exportLayerInfo || return 0
    say "$at building an FP32 engine to compare sizes with"
    out=$out.fp32 precision=fp32
    build_line
    run "$out.log" && [ -s "$out.tmp" ] && field fp32_twin_bytes $(($(wc -c <"$out.tmp"))) >>work/new
    rm -f "$out.tmp" "$out.log"
    out=out/$engine precision=fp16
}
why_unsaved() { # after trtexec could not write the engine
    if ! { : >out/write.tmp; } 2>/dev/null; then
        echo "the engine could not be written: no permission to write in $PWD/out"
    elif [ "$(free_kib)" -lt 65536 ]; then
        echo "the engine could not be written, the disk is full: $(free)"
    else
        echo "the engine could not be written, for another reason than space: $(free)"
    fi
    rm -f out/write.tmp
}
build() { # write $out, and its facts to work/$n.built, or a failure to work/results
    say "$at building"
    rm -f "$out" "work/$n.built" "work/$n.measured" "$out.build.log"
    build_line
    code=none began=$(date +%s)
    [ -n "$why" ] || run "$out.build.log"
    took=$(($(date +%s) - began))
    here=$(sed -n 's/.*Compute Capability: \([0-9]*\)\.\([0-9]*\).*/\1\2/p' "$out.build.log" 2>/dev/null | sed -n 1p)
    case "$runtime,$sm,${here:-any}" in tensorrt-rtx,* | *,,* | *,any) ;; *)
        case ",$sm," in *",$here,"*) ;; *) die 4 "this GPU has compute capability $here, but the job is for $sm" ;; esac ;;
    esac
    if [ "$code" = 0 ] && [ -s "$out.tmp" ]; then
        sync "$out.tmp" 2>/dev/null
        mv -f "$out.tmp" "$out"
        {
            field exit_code 0 && field build_seconds "$took" && field size_bytes $(($(wc -c <"$out")))
            field sha256 "$(sha256 "$out")" && field build_command "$line"
        } >work/new
        twin
        mv -f work/new "work/$n.built"
        say "$at built in $took s"
        return
    fi
    rm -f "$out.tmp"
    [ "$code" != 0 ] || why="trtexec succeeded, but wrote no engine"
    [ -n "$why" ] || ! grep -qi -e 'no space left' -e 'saving engine to file failed' \
        "$out.build.log" || why=$(why_unsaved)
    say "$at failed, exit code $code${why:+: $why}"
    {
        field engine "$engine" && field status failed && field exit_code "$code" && field build_seconds "$took"
        field build_command "$line"
        [ -z "$why" ] || field error "$why"
        [ "$code" = none ] || errors_of "$out.build.log"
    } >>work/results
}
# values_of FILE: print the values of an exported output, one a line (NaN is `nan`)
values_of() {
    tr '[,]' '\n\n\n' <"$1" | sed -e '/["{}]/d' -e '/^[[:space:]]*$/d' -e 's/[[:space:]]//g'
}
# crop: write the rows $rows of the values in work/values to $out.tmp, compressed; set $not_finite
crop() {
    not_finite=$(grep -ci n work/values)
    if [ "$rows" = all ]; then # the outputs are in this order
        sed -n 's/.*"name" *: *"\(.*\)".*/\1/p' work/output.json >"$out.outputs.txt" && gzip -nc <work/values >"$out.tmp"
        return
    fi
    dims=$(sed -n 's/.*"dimensions" *: *"\([0-9x]*\)".*/\1/p' work/output.json | sed -n 1p)
    width=${dims##*x} height=${dims%x*}
    height=${height##*x} channel=0 lines=
    [ -n "$width" ] && [ -n "$height" ] || return 1
    while [ $channel -lt 3 ]; do
        for band in $(printf %s "$rows" | tr , ' '); do
            first=$(((channel * height + ${band%-*}) * width + 1))
            stop=$(((channel * height + ${band#*-}) * width))
            lines="$lines${first},${stop}p;"
        done
        channel=$((channel + 1))
    done
    sed -n "$lines" work/values | gzip -nc >"$out.tmp"
}
measure() { # write the facts to work/new, and to work/$n.measured on success; set $status
    say "$at measuring"
    # With --shapes also for a static engine: 8.0 and 8.2 take their implicit-batch path without it.
    open="$(quoted "$trtexec") $(quoted "--loadEngine=$out")"
    [ "$dla" = - ] || open="$open --useDLACore=$dla"
    line="$open $(quoted "--shapes=$shape")"
    # The same settings for every version; they are the defaults of 11. DLA runs in no CUDA graph.
    if [ "$dla" != - ]; then add --noCudaGraph; else add --rtxCudaGraphStrategy=wholeGraph || add --useCudaGraph; fi
    add --useSpinWait; add --noDataTransfers
    add --warmUp=2000 && add "--duration=$measure_s" && add "--exportTimes=$out.times.json"
    add "--exportLayerInfo=$out.layers.json" # again: with an execution context a dynamic engine has types, too
    rm -f "$out.times.json" "$out.power.txt" "$out.output.txt.gz" "$out.outputs.txt"
    [ ! -f board.sh ] || { sh board.sh watch "$out.power.txt" 1 >/dev/null 2>&1 </dev/null & watcher=$!; }
    status=ok
    run "$out.time.log" || status=unmeasured
    stop
    { field time_exit_code "$code" && field time_command "$line"; } >work/new
    [ "$code" = 0 ] || errors_of "$out.time.log" >>work/new
    if [ $status = ok ] && listed "$graph.0.bin"; then
        say "$at running it once for the accuracy check"
        i=0
        while listed "$graph.$i.bin"; do # plain names: the option splits at , and :
            cp "$graph.$i.bin" work/$i.bin
            i=$((i + 1))
        done
        line="$open $(quoted "--shapes=$checked")"
        add "--loadInputs=$load" && add --exportOutput=work/output.json
        add --iterations=1 && add --duration=0 && add --warmUp=0; add --includeDataTransfers
        not_finite=none
        run "$out.output.log" && values_of work/output.json >work/values && crop &&
            mv -f "$out.tmp" "$out.output.txt.gz" || status=unchecked
        {
            field output_exit_code "$code" && field output_command "$line"
            field output_not_finite "$not_finite"
        } >>work/new
        [ "$code" = 0 ] || errors_of "$out.output.log" >>work/new
        rm -f work/output.json work/values work/*.bin
    fi
    [ $status != ok ] || cp work/new "work/$n.measured" # else it is measured again next time
}

n=0 failures=0
while IFS=$tab read -r graph engine precision typing load shape checked min opt max rows <&3; do
    case $graph in '#'* | '') continue ;; esac
    n=$((n + 1))
    at="[$n/$count] $engine:" out="out/$engine" status=failed
    if [ -s "work/$n.built" ] && [ -s "$out" ] && grep -Fxq "sha256$tab$(sha256 "$out")" "work/$n.built"; then
        say "$at already built"
    else build; fi
    if [ -s "work/$n.built" ]; then
        if [ -s "work/$n.measured" ]; then status=ok && cp "work/$n.measured" work/new; else measure; fi
        { field engine "$engine" && field status $status && cat "work/$n.built" work/new; } >>work/results
        say "$at $status"
    fi
    [ $status = ok ] || failures=$((failures + 1))
done 3<job.txt

desk=
[ ! -d desk ] || desk=desk # returned unchanged
# --- the result -------------------------------------------------------------------------------------------------------
{ field format 1 && field trtexec "$trtexec" && field version "$version" && cat work/results; } >out/results.txt &&
    { [ ! -s work/timing.cache ] || cp work/timing.cache out/timing.cache; } && rm -f out/SHA256SUMS out/*.tmp &&
    (cd out && sha256sum -- *) >work/sums && mv -f work/sums out/SHA256SUMS && tar -cf result.tar.tmp job.txt SHA256SUMS $desk out &&
    { sync result.tar.tmp 2>/dev/null; mv -f result.tar.tmp result.tar; } || die 5 "the result cannot be written; $(free)"
median() { # of the last timed run in a log
    sed -n 's/.*\] GPU Compute Time: .*median = \([0-9.e+-]*\) ms.*/\1/p' "$1" 2>/dev/null |
        sed -n '$p'
}
asked() { # the precision that the job asks of an engine
    cut -f2,3 job.txt | while IFS=$tab read -r name precision; do
        [ "$name" != "$1" ] || printf '%s\n' "$precision"
    done
}
report() { # print the results as a table
    engine=
    printf '\n%-11s %-5s %12s %10s  %s\n' result asked 'median [ms]' 'build [s]' engine
    { cat work/results && field engine ''; } | while IFS=$tab read -r key value; do
        case $key in
            engine)
                [ -z "$engine" ] || printf '%-11s %-5s %12s %10s  %s\n' \
                    "$status" "$(asked "$engine")" "$(median "out/$engine.time.log")" "$took" \
                    "$engine${why:+: $why}"
                engine=$value status= took= why=
                ;;
            status) status=$value ;;
            build_seconds) took=$value ;;
            error) why=$value ;;
        esac
    done
    echo
}
report
say "result in $PWD/result.tar: copy it back and run: srdeploy adopt result.tar"
[ $failures = 0 ] || die 1 "$failures of $count engines failed; see the result"
state "done"
