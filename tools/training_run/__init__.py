"""What pretrain.py and finetune.py share."""
