import httpx

from tests.app.conftest import Inputs


def test_the_api_says_what_is_wrong_with_a_gate(api: httpx.Client, inputs: Inputs) -> None:
    blind = [{"name": name, "dataset": inputs.first} for name in ("a", "b")]
    for change, pointer in [
        ({"gate": {}}, "/gate"),
        ({"gate": {"max_bwt": None}}, "/gate"),
        ({"gate": {"max_mean_perplexity": 0.5}}, "/gate/max_mean_perplexity"),
        ({"gate": {"max_bwt": "1"}}, "/gate/max_bwt"),
        ({"gate": {"max_bwt": 1.0}, "domains": blind}, "/gate/max_bwt"),
        ({"gate": {"max_mean_perplexity": 50.0}, "domains": blind}, "/gate/max_mean_perplexity"),
    ]:
        refused = api.post("/v1/jobs", json=inputs.body(**change))
        assert refused.status_code == 422, change
        assert [error["pointer"] for error in refused.json()["errors"]] == [pointer]
    job = api.post("/v1/jobs", json=inputs.body(gate={"max_bwt": 2})).json()
    assert job["spec"]["gate"] == {"max_bwt": 2.0, "max_log_bwt": None, "max_mean_perplexity": None}
