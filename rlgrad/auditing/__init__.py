"""The gradient microscope: how good is a gradient estimate, or a surrogate's gradient, on one's own batch?

    result = audit(model(x), y, f1, weights=model.parameters())
    print(result)            # bias, variance, cosine and cost of each candidate
    result.save("audit.json")

It compares each candidate with the true gradient of the expected metric, in the logits and through the weights.
``audit_network(network, x, target)`` does the same for a network of hard steps, in its weights.
"""

from rlgrad.auditing.candidates import default_estimators as default_estimators
from rlgrad.auditing.candidates import default_surrogates as default_surrogates
from rlgrad.auditing.measures import Space as Space
from rlgrad.auditing.microscope import audit as audit
from rlgrad.auditing.networks import audit_network as audit_network
from rlgrad.auditing.networks import default_network_estimators as default_network_estimators
from rlgrad.auditing.networks import default_rules as default_rules
from rlgrad.auditing.networks import mean_field as mean_field
from rlgrad.auditing.problems import Subject as Subject
from rlgrad.auditing.problems import builtin as builtin
from rlgrad.auditing.problems import prepare as prepare
from rlgrad.auditing.result import Audit as Audit
from rlgrad.auditing.result import Row as Row
