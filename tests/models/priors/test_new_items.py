"""Priors of a larger catalogue: values by id or in order, and what is refused for want of them."""

import pandas as pd
import pyro.distributions as dist
import pytest
import torch

from blob_pyro.models import BanditModel, BanditPriors, ItemCategories, ItemFeatures, KappaOnPopularity
from blob_pyro.models.priors.new_items import ItemValues, first_priors_of_more, padded


def test_values_by_id_or_in_order():
    by_id = ItemValues(["d", "e"], {"categories": {"a": 9, "e": 1, "d": 0}})
    assert by_id.of("categories", "ItemCategories") == [0, 1]
    assert ItemValues(["d", "e"], {"features": torch.eye(2)}).of("features", "ItemFeatures") == [[1, 0], [0, 1]]
    by_id.refuse_others()


WRONG = {
    "none": (None, ValueError, "ItemCategories needs 'categories' of 2 new items; pass item_values="),
    "of one alone": ({"categories": {"d": 0}}, ValueError, "no value for 1 new items, 'e' for one"),
    "too few": ({"categories": [0]}, ValueError, "expected 2 values, one for each new item, got 1"),
    "a text": ({"categories": "de"}, ValueError, "expected 2 values"),
    "a series": ({"categories": pd.Series([0, 1])}, TypeError, r"a Series has an index.*\.to_dict\(\)"),
    "no mapping": ([0, 1], TypeError, "item_values: expected a mapping"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_values(case):
    values, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        ItemValues(["d", "e"], values).of("categories", "ItemCategories")


def model(**priors):
    psi, rho = torch.randn(4, 2), torch.tensor([0.5, -1.0, 2.0, 0.1])
    return BanditModel(psi, BanditPriors(**priors), rho)


def test_terms_are_told_of_new_items_and_keep_the_others():
    old = model(
        terms={
            "brand": ItemCategories([0, 1, 1, 0]),
            "size": ItemFeatures(torch.tensor([[1.0], [2.0], [3.0], [4.0]])),
            "views": KappaOnPopularity(),
        }
    )
    priors = first_priors_of_more(old, 6, ItemValues([4, 5], {"brand": {4: 2, 5: 0}, "size": [[0.5], [7.0]]}))
    terms = dict(priors.named_terms)
    assert terms["brand"].categories == (0, 1, 1, 0, 2, 0)
    assert terms["size"].features.tolist() == [[1.0], [2.0], [3.0], [4.0], [0.5], [7.0]]
    rho = old.item_intercept
    assert (terms["views"].center, terms["views"].spread) == (float(rho.mean()), float(rho.std()))
    larger = BanditModel(torch.randn(6, 2), priors, torch.cat([rho, torch.tensor([40.0, -3.0])]))
    assert torch.equal(larger.views_popularity[:4], old.views_popularity)
    with pytest.raises(ValueError, match=r"no term of the model asks for 'colour'; it asks for \['brand', 'size'\]"):
        first_priors_of_more(old, 5, ItemValues([4], {"brand": [0], "size": [[1.0]], "colour": [1]}))


def test_priors_that_are_written_out():
    alike = dist.Normal(0.0, 0.2).expand([4]).to_event(1)
    found = first_priors_of_more(model(kappa=alike), 6, ItemValues([4, 5], None)).kappa
    assert (tuple(found.event_shape), found.variance.sqrt().tolist()) == ((6,), pytest.approx([0.2] * 6))
    unlike = dist.Normal(torch.arange(4.0), 0.2).to_event(1)
    with pytest.raises(ValueError, match=r"kappa: is .* which says nothing of new items; give a function of the model"):
        first_priors_of_more(model(kappa=unlike), 6, ItemValues([4, 5], None))
    more = dist.Normal(torch.full((6,), 9.0), 3.0).to_event(1)
    both = padded("kappa", unlike, more, 6)
    assert both.mean.tolist() == [0, 1, 2, 3, 9, 9]
    assert both.variance.sqrt().tolist() == pytest.approx([0.2] * 4 + [3.0] * 2)
