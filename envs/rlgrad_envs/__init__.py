"""Gymnasium environments of metric problems: the reward is a metric of a set of decisions.

    import gymnasium as gym
    import rlgrad_envs
    env = gym.make("rlgrad/BatchClassification-v0", metric="f1")
    envs = gym.make_vec("rlgrad/BatchClassification-v0", num_envs=64)  # the native vector form

Importing it registers them, and imports no torch.
"""

import gymnasium as gym

_ENVIRONMENTS = {
    "BatchClassification": "batch_classification",
    "Classification": "classification",
    "Segmentation": "segmentation",
    "StepNetwork": "step_network",
    "Threshold": "threshold",
}

for _name, _module in _ENVIRONMENTS.items():
    gym.register(
        f"rlgrad/{_name}-v0",
        entry_point=f"rlgrad_envs.{_module}:{_name}Env",
        vector_entry_point=f"rlgrad_envs.{_module}:{_name}VectorEnv",
    )
