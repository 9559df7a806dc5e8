# Small networks from scratch on a CPU: AdamW, one cycle over the whole run.
train = dict(
    batch_size=8,
    optimizer=dict(type="AdamW", lr=2e-3, weight_decay=0.05),
    param_scheduler=[dict(type="OneCycleLR", eta_max=2e-3, pct_start=0.2, by_epoch=False)],
    clip_grad=35.0,
)
