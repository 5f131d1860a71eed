"""Stage 2: XGBoost reclassifiers for the categories that stage 1 confuses."""
