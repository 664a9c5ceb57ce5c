from splitleak.eval.report.run_table import COLUMNS, rows


def record(name="target"):
    return {
        "target": {"name": name, "accuracy": 0.8762},
        "attack": {"queries": 2000},
        "wire": {"bytes_per_image": 1234.4},
        "score": {
            "mse": {"mean": 0.01234, "std": 0.00056},
            "ssim": {"mean": 0.78949, "std": 0.1},
            "psnr": {"mean": 19.5, "std": 1.25},
        },
    }


def latency(*names):
    parts = ("edge_ms", "wire_ms", "cloud_ms", "total_ms")
    return {
        "targets": {name: {part: {"p50": 1 + at, "p95": 2.5 + at} for at, part in enumerate(parts)} for name in names}
    }


def test_a_row_has_every_number_in_its_column():
    (row,) = rows([record()], latency("target"))
    assert dict(zip(COLUMNS, row, strict=True)) == {
        "target": "target",
        "accuracy %": "87.6",
        "MSE": "0.0123 ± 0.0006",
        "SSIM": "0.789 ± 0.100",
        "PSNR dB": "19.50 ± 1.25",
        "edge ms": "1.00 / 2.50",
        "wire ms": "2.00 / 3.50",
        "cloud ms": "3.00 / 4.50",
        "total ms": "4.00 / 5.50",
        "bytes/image": "1234",
        "queries": "2000",
    }


def test_a_target_without_a_latency_shows_a_dash():
    first, second = rows([record("a"), record("b")], latency("b"))
    assert first[5:9] == ("-",) * 4
    assert second[5] == "1.00 / 2.50"
    assert rows([record("a")], None) == [first]


def test_rows_keep_the_order_of_the_records():
    assert [row[0] for row in rows([record("z"), record("a")], None)] == ["z", "a"]
