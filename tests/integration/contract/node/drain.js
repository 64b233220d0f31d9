// Waits for a job until its server is stopped. Prints how the calls ended as JSON.
const { client, picture } = require("./connect");

const spec = {
  content: picture("content.png"),
  styles: [{ image: picture("style.png") }],
  parameters: { sizePx: 64, steps: 5000, optimizer: "OPTIMIZER_ADAM", levels: 1 },
};
const seen = (error) => ({
  code: error.code,
  details: error.details,
  reason: /DRAINING/.test(String(error.metadata.get("grpc-status-details-bin")[0])) ? "DRAINING" : "",
});
const ended = { };
const done = (name, error) => {
  ended[name] = seen(error);
  if (ended.stylize && ended.progress) {
    console.log(JSON.stringify(ended));
    client.close();
  }
};

const call = client.Stylize({ spec }, (error) => done("stylize", error));
call.on("metadata", (metadata) => {
  const stream = client.Progress({ jobId: metadata.get("impasto-job-id")[0] });
  stream.on("data", (event) => event.step && console.error("painting"));
  stream.on("error", (error) => done("progress", error));
});
