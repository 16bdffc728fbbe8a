"""Language models fine-tuned by LoRA on selected examples."""
