// The camera as a source of pictures: one frame is on its way at a time, so that a slow server never gets a queue.

const LONGEST = 1280; // pixels of a frame's longer side; detectors see less than that
const QUALITY = 0.9;

export class Camera {
  #video;
  #stream = null;

  constructor(video) {
    this.#video = video;
  }

  get running() {
    return this.#stream !== null;
  }

  /**
   * Ask for the camera and show it.
   *
   * @throws Error with a sentence when there is none, or it may not be used.
   */
  async start() {
    if (!navigator.mediaDevices) {
      throw new Error("A browser gives its camera only to pages from localhost or https; open this page that way.");
    }
    try {
      this.#stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" }, audio: false });
    } catch (error) {
      throw new Error(`The camera does not start: ${error.message || error.name}.`);
    }
    this.#video.srcObject = this.#stream;
    await this.#video.play();
  }

  /** Hand its frames to `onFrame(jpeg)` until it is stopped: each one when the one before has been dealt with. */
  async each(onFrame) {
    const stream = this.#stream; // it may be stopped and started again while a frame is on its way
    const canvas = document.createElement("canvas");
    while (this.#stream === stream) {
      const frame = await this.#frame(canvas);
      if (this.#stream === stream) await onFrame(frame);
      await new Promise((next) => requestAnimationFrame(next));
    }
  }

  stop() {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#stream = null;
    this.#video.srcObject = null;
  }

  async #frame(canvas) {
    const { videoWidth, videoHeight } = this.#video;
    const scale = Math.min(1, LONGEST / Math.max(videoWidth, videoHeight));
    canvas.width = Math.round(videoWidth * scale);
    canvas.height = Math.round(videoHeight * scale);
    canvas.getContext("2d").drawImage(this.#video, 0, 0, canvas.width, canvas.height);
    return new Promise((done) => canvas.toBlob(done, "image/jpeg", QUALITY));
  }
}
