"""The published second stage as it stood, for comparison on the same features: XGBoost on the
bottleneck features of the training photos alone, confusions seen at least twice in train and in
validation, depth 3, 50 rounds, rate 0.3, all else as XGBoost has it, used everywhere."""

from stage2_xgb.config import BoosterConfig, ConfusionConfig, Stage2Config

FOLDER = "published"
"""Where its bundle lies, within that of ours."""

PUBLISHED = Stage2Config(
    target_prior="train",
    pool=False,
    confusion=ConfusionConfig(rule="published", min_count=2, max_size=1000),
    booster=BoosterConfig(
        max_depth=3,
        n_estimators=50,
        learning_rate=0.3,
        subsample=1,
        colsample_bytree=1,
        reg_lambda=1,
        min_child_weight=1,
        max_bin=256,
    ),
    components=None,
    rows="train",
    base_margin=False,
    gate=False,
    max_rows_per_class=1_000_000,
)
