// A client that is not ours: grpc-js and proto-loader, fed only the .proto. Prints what it saw as JSON.
const fs = require("fs");
const path = require("path");
const { client, folder, picture } = require("./connect");

const spec = {
  content: picture("content.png"),
  styles: [{ image: picture("style.png") }],
  parameters: { sizePx: 48, steps: 4, init: "INIT_NOISE", seed: 11 },
};

function stylize() {
  return new Promise((resolve, reject) => {
    const told = {};
    const call = client.Stylize({ spec, requestId: "node-" + process.pid }, (error, response) =>
      error ? reject(error) : resolve({ ...told, response }));
    call.on("metadata", (metadata) => {
      told.jobIdFromMetadata = metadata.get("impasto-job-id")[0];
      told.watched = watch(told.jobIdFromMetadata);
    });
  });
}

function watch(jobId) {
  return new Promise((resolve, reject) => {
    const events = [];
    const stream = client.Progress({ jobId, resumeAfterSequence: 0 });
    stream.on("data", (event) => events.push(event));
    stream.on("error", reject);
    stream.on("end", () => resolve(events.filter((event) => event.event !== "heartbeat")));
  });
}

function invalid() {
  return new Promise((resolve) =>
    client.Stylize({ spec: { ...spec, parameters: { steps: -1 } } }, (error) =>
      resolve({ code: error.code, hasDetails: error.metadata.get("grpc-status-details-bin").length > 0 })));
}

async function main() {
  const { response, jobIdFromMetadata, watched } = await stylize();
  const events = await watched;
  fs.writeFileSync(path.join(folder, "node.png"), response.result.image.data);
  console.log(JSON.stringify({
    jobId: response.result.job.jobId,
    jobIdFromMetadata,
    kinds: events.map((event) => event.event),
    sequences: events.slice(1).map((event) => event.sequence),
    invalid: await invalid(),
  }));
  client.close();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
