"""Engine processes that all workers share (SEG_ENGINES), so that weights are on a device once.

    worker:  Dispatcher --- Link (one for each engine) ----------- Channel
                                                                      |   messages: a Unix socket
                                                                      |   pixels: shared memory
    engine:  BatchingEngine --- WorkerSession (one per worker) --- Channel

- `Dispatcher` has the queue of one worker. It sends each image to the engine process that has the
  fewest of its images, and again to another, or to its successor, if that process ends meanwhile.
- `WorkerSession` submits the images of one worker to `BatchingEngine`, whose batcher forms the
  batches of the images of all workers. If a worker ends, its images are dropped.
- Weights are sent as an open file, once for each engine. Every image names its weights by digest.
- The supervisor owns the sockets on which engines listen. So a worker that connects while an engine
  is being replaced waits for the successor.
"""
