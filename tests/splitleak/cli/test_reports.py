def test_a_report_of_what_is_not_there_is_one_line_on_standard_error(refusal):
    assert "nothing" in refusal("report", "nothing")
