// A picture above grpc-js's default limit of 4 MiB: the result leaves it out, and DownloadResult streams it. Prints what it saw as JSON.
const crypto = require("crypto");
const { client, grpc, picture } = require("./connect");

const first = { layers: [{ layer: "relu1_1", weight: 1 }] }; // the size of the picture matters here, not how it is painted
const spec = {
  content: picture("noise.png"),
  styles: [{ image: picture("style.png") }],
  parameters: { sizePx: 1300, steps: 1, levels: 1, optimizer: "OPTIMIZER_ADAM", contentLayers: first, styleLayers: first },
};

const stylize = () =>
  new Promise((resolve, reject) =>
    client.Stylize({ spec }, (error, response) => (error ? reject(error) : resolve(response.result))));

// Resumes after a lost connection from the bytes that have arrived.
const download = (jobId, chunks = []) =>
  new Promise((resolve, reject) => {
    const offsetBytes = chunks.reduce((sum, chunk) => sum + chunk.length, 0);
    const stream = client.DownloadResult({ jobId, offsetBytes });
    stream.on("data", (piece) => chunks.push(piece.chunk));
    stream.on("error", (error) =>
      error.code === grpc.status.UNAVAILABLE ? resolve(download(jobId, chunks)) : reject(error));
    stream.on("status", ({ code }) => code === grpc.status.OK && resolve(Buffer.concat(chunks)));
  });

async function main() {
  const result = await stylize();
  const data = await download(result.job.jobId);
  console.log(JSON.stringify({
    included: result.image != null,
    imageBytes: result.imageBytes,
    received: data.length,
    hashIsRight: crypto.createHash("sha256").update(data).digest("hex") === result.imageSha256,
    isPng: data.subarray(1, 4).toString() === "PNG",
  }));
  client.close();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
