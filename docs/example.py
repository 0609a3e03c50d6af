# %% [markdown]
# # From a few labels to a detector, by calls of Python
#
# Each `# %%` begins a cell: VS Code, PyCharm and Jupyter (with jupytext) open this file as a notebook, and
# `python docs/example.py` runs all of it. The data are generated, so that nothing has to be downloaded; with images of
# your own, name them in the call of `ssod.init`.

# %% Parameters: these are for a first look, of a minute or two; a real training has a hundred times the steps.
from pathlib import Path

import ssod
from ssod.data.synthetic import write_shapes

FOLDER = Path("example")  # everything is written below it
IMAGES, VAL = 60, 20  # training images, of which a fifth keep their labels; images to measure on
SIDE = 96  # of an image, in pixels
STEPS = 60  # of each training; the first half of them learns from labels alone

# %% A small data set, and a config for it. `init` looks at the boxes, and chooses sizes, anchors and steps; `overrides`
# are keys of the config.
data = write_shapes(FOLDER / "data", train=IMAGES, val=VAL, size=SIDE)
new = ssod.init(
    FOLDER / "shapes.yaml",
    labeled=str(data / "annotations" / "train.json"),
    val=str(data / "annotations" / "val.json"),
    images=str(data / "train"),
    val_images=str(data / "val"),
    percent=20,
    detector="fcos_tiny_fpn",
    overrides=[f"train.steps={STEPS}", f"method.burn_in={STEPS // 2}", "method.ema.decay=0.95"],
)
print(new.text)
cfg = ssod.load_config(new.file)

# %% Is anything wrong with the data? The lines are printed; the result has the same as values.
checked = ssod.check(cfg)
print(f"{checked.errors} errors, {len(checked.findings)} findings, {checked.counts['labeled']['images']} images")

# %% What will a training cost? A few real steps are timed; they leave nothing behind.
plan = ssod.plan(cfg)
print(f"{plan.seconds_per_step:.2f} s a step, {plan.hours:.2f} hours, {plan.epochs_unlabeled:.1f} passes unlabelled")

# %% Train: with the unlabelled images, and without them. A folder that holds a finished run is not trained anew.
baseline = ssod.load_config(new.file, ["method={name: supervised, ema: {decay: 0.95}}"])
with_unlabeled = ssod.train(cfg, out=FOLDER / "runs" / "mean_teacher")
labels_alone = ssod.train(baseline, out=FOLDER / "runs" / "supervised")
print(f"AP {with_unlabeled['AP']:.3f} with unlabelled images, {labels_alone['AP']:.3f} without")

# %% Measure the saved teacher. A result is a table of metrics, and knows what they stand on.
found = ssod.evaluate(with_unlabeled.folder)
print({name: round(value, 3) for name, value in found.items()})
print([(cutoff.name, cutoff.score) for cutoff in found.cutoffs])

# %% Did the unlabelled images help? The gain has an interval; `compare.html` is the same as a page.
compared = ssod.compare([FOLDER / "runs"], out=[FOLDER / "compare.html"])
for row in compared.standings:
    print(row.name, round(row.metrics["AP"], 3), row.gain, row.gain_images)

# %% Look at new images: pictures with boxes, and COCO results. The result is the list of the boxes.
predicted = ssod.predict(with_unlabeled.folder, data / "val", FOLDER / "predicted", score=0.1)
print(predicted.images, "images,", len(predicted), "boxes in", predicted.path)

# %% One image, without a file: boxes [N, 4] in its own pixels, labels, scores.
model = ssod.load(with_unlabeled.folder)
print(model(str(data / "val" / "000000.jpg")).boxes.shape)

# %% Ship it: one graph, compared with torch before it is kept. `onnx` needs `pip install 'ssod[export]'`.
print(ssod.export(with_unlabeled.folder, format="pt2", out=FOLDER / "detector.pt2"))

# %% Where a command would print one line and end, a call raises: the error has the file, the problem and the fix.
try:
    ssod.evaluate(FOLDER / "no_such_run")
except ssod.SsodError as error:
    print(error.problem, "|", error.fix)
