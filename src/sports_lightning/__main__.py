"""`python -m sports_lightning`: the commands, with an example of each."""

COMMANDS = """\
sports_lightning: train, compare and use image classifiers on a folder of images

  python -m sports_lightning.train data=sample
      trains on a small drawn data set, tests the best checkpoint and prints the run's folder
  python -m sports_lightning.train model=resnet50 finetune=head data=folder data.root=PICTURES
      trains on your own images: PICTURES/train/CLASS/*.jpg, and likewise valid/ and test/
  python -m sports_lightning.evaluate ckpt_path=RUN/checkpoints/best.ckpt split=val
      metrics, predictions, confusion matrix and worst mistakes of a checkpoint
  python -m sports_lightning.predict ckpt_path=RUN/checkpoints/best.ckpt input=PICTURES
      labels new images: a file, a folder or a glob
  python -m sports_lightning.benchmark data=sample model=resnet50 model.pretrained=false
      how fast a training would be here, and what holds it up
  python -m sports_lightning.audit data=folder data.root=PICTURES
      what is wrong with the images: copies, leaks between splits, broken files
  python -m sports_lightning.compare outputs/train
      finished runs side by side, and which differences are more than chance
  python -m sports_lightning.reproduce run=RUN
      whether a run comes out the same once more

Each command explains its settings with --help, and shows what it would run with --cfg job.
"""

if __name__ == "__main__":
    print(COMMANDS, end="")
