// Makes a request with the stubs that buf.gen.yaml makes, and reads it back from its bytes.
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Optimizer, SubmitJobRequestSchema, type SubmitJobRequest } from "./impasto/v1/style_transfer_pb";

const request: SubmitJobRequest = create(SubmitJobRequestSchema, {
  requestId: "r",
  spec: { parameters: { sizePx: 64, optimizer: Optimizer.ADAM }, styles: [{ image: { source: { case: "data", value: new Uint8Array([1]) } } }] },
});
const read = fromBinary(SubmitJobRequestSchema, toBinary(SubmitJobRequestSchema, request));
const source = read.spec?.styles[0]?.image?.source;
console.log(read.requestId, read.spec?.parameters?.sizePx, read.spec?.parameters?.optimizer, source?.case === "data" && source.value.length);
