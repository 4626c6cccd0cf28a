"""Lists the benchmarks with their bars."""

BENCHMARKS = {
    "batch_generation": "2 workers: at least 1.8 x one worker's pictures/s, on more than 2 cores",
    "budget": "peak memory of the demo's trainings: planned within 15 % of what they take (PSS)",
    "checkpointing": "loop stops <= 20 % of a synchronous save's time; EMA <= 5 % of a step",
    "crawl": "img2dataset 1.47: at least its pictures/s and pictures/CPU-s, 256 px, local server",
    "crawl_nodes": "2 and 4 nodes: at least 0.9 of so many times one node's pictures/s",
    "embedding": "ViT-B/32 at 224 px: at least 0.95 x the bare model's best pictures/s",
    "frechet": "50,000 x 1,024 features: at most torchmetrics' time, memory flat",
    "generation": "64 to 256 px: >= 1.1 x diffusers' UnCLIPPipeline (by default 3 x), memory",
    "gpu_utilisation": "Karlo's and the paper's networks: >= 0.45 or 0.40 of a GPU's peak",
    "image_scale": "image side: 10 x the pictures in at most 10.5 x the time beyond start-up",
    "loader": "read, decode, batch: at least webdataset's samples/s; --resume: under 5 s",
    "loop": "training loop, prior and decoder: at least 0.97 x a bare PyTorch loop's samples/s",
    "matching": "500,000 queries: at least 2 x pyahocorasick's captions/s on the same core",
    "object_store": "shards on a true S3 server: >= 0.8 x a bare loop of ranged GETs, MB/s",
    "orchestration": "a whole chain: at least 0.80 of its wall time is work (takes as long)",
    "real_text": "real captions, WordNet: ids equal to the reference, caption by caption",
    "sampling": "n network evaluations cost at most 1.05 x n bare ones",
    "sampling_quality": "default sampling: Frechet distance at most 1.02 x UnCLIPPipeline's (GPU)",
    "selection": "1 M rows/s of thresholds and balance; duplicates >= FAISS k-means + plain loop",
    "startup": "a job to its first finished partition: 0.7 (cold) and 0.35 x a bare script's rate",
    "text_scale": "text side: 10 x the rows in at most 11 x the time; count merge under 10 s",
    "tracking_overhead": "training followed by MLflow, or by none that answers: >= 0.99 x without",
    "train_step": "U-Net and prior: >= 1.2 x DALLE2-pytorch's and 1.0 x diffusers' steps/s, memory",
    "wat_extraction": "WAT files: at least 1.5 x a plain FastWARC + json loop's pairs/s/core",
    "wikipedia": "wikitext to counts of words and pairs: at least 5 MB/s per core",
}

if __name__ == "__main__":
    for name, bar in BENCHMARKS.items():
        print(f"python -m tests.benchmarks.{name:<18} {bar}")
