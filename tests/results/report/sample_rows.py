"""Rows and crops as the tests of the report take them: two models, elastic, on one machine."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace

from sr_deploy.results.crops import CropSet, MethodCrop
from sr_deploy.results.rows import BenchmarkRow


def row(variant="d1", ms=10.0, psnr=30.0, **changes):
    values = {
        "model": "m_x4",
        "variant": variant,
        "backend": "torch",
        "backend_version": "2.13",
        "device": "a CPU",
        "threads": 2,
        "precision": "fp32",
        "precision_asked": "fp32",
        "scale": 4,
        "input_hw": (64, 48),
        "warmup": 3,
        "runs": 3,
        "timer": "wall clock",
        "params": 90_000,
        "latencies_ms": () if ms is None else (0.9 * ms, ms, 1.2 * ms),
        "latency_ms_median": ms,
        "latency_ms_mean": ms,
        "latency_ms_p90": ms and 1.1 * ms,
        "latency_ms_p95": ms and 1.15 * ms,
        "latency_ms_p99": ms and 1.2 * ms,
        "macs_g": 26.0,
        "acts_m": 119.5,
        "convs": 12,
        "counter": "hooks",
        "counted_hw": (256, 256),
        "set": "Set5",
        "metric": "y",
        "border_px": 4,
        "psnr_db": psnr,
        "ssim": 0.8,
        "tiling": "whole",
        "date_utc": "2026-01-02T03:04:05Z",
    }
    return BenchmarkRow(**{**values, **changes})


def family():
    """Five networks. d2 beats b4 in PSNR and latency, the others are the front. c8 has no PSNR."""
    return [
        row("d1", 10.0, 30.0),
        row("d2", 20.0, 31.0, params=125_000, macs_g=29.2),
        row("d10", 40.0, 32.0, params=165_000, macs_g=31.8),
        row("b4", 30.0, 30.5, model="other_x4", params=350_000, macs_g=22.0),
        row(
            "c8",
            25.0,
            None,
            model="third_x4",
            params=None,
            macs_g=None,
            counter="",
            ssim=None,
            uncounted={"matmul": 2},
        ),
    ]


def mixed_family():
    """A network of two sizes, by two runtimes, in up to three precisions."""
    rows = [row("d1", 10.0, 30.0), row("d2", 20.0, 31.0)]
    for r in list(rows):
        for precision, asked, share, loss in (
            ("fp32", "fp32", 1.1, 0.0),
            ("bf16", "bf16", 0.5, 0.001),
            (f"mixed: 3 fp32, 1{r.variant[1:]} int8", "int8", 0.4, 0.06),
        ):
            ms = (r.latency_ms_median or 0) * share
            changes = {"precision_asked": asked, "psnr_db_vs_fp32": 45.04}
            other = row(r.variant, ms, (r.psnr_db or 0) - loss, **changes)
            rows.append(replace(other, backend="openvino", precision=precision))
    return rows


def int8_record(loss_db=0.08):
    """What the export of an INT8 graph measured, as rows hold it."""
    curve = [{"kept": kept, "loss_db": 0.2 / (1 + kept)} for kept in (0, 1, 2, 4)]
    return {"loss_db": loss_db, "max_loss_db": 0.1, "kept": 2, "curve": curve}


def png(width, height, grey):
    """A PNG file of one grey, written here so that these tests need no OpenCV."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    lines = (b"\0" + bytes([grey]) * width) * height
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


def crop_set():
    crops = (
        MethodCrop("LR", png(12, 12, 90)),
        MethodCrop("bicubic", png(48, 48, 0), 21.25),
        MethodCrop("m_x4.d1", png(48, 48, 160), 24.5),
        MethodCrop("m_x4.d2", png(48, 48, 200), 25.75),
        MethodCrop("HR", png(48, 48, 255)),
    )
    return CropSet("bird.png", 4, (8, 16, 48, 48), "y", crops)
