// Connects to the server that the command line names: node SCRIPT ADDRESS PROTO_FOLDER PICTURE_FOLDER. Only grpc-js and the .proto.
const fs = require("fs");
const path = require("path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, protoDir, folder] = process.argv.slice(2);
const definition = loader.loadSync("impasto/v1/style_transfer.proto", {
  includeDirs: [protoDir],
  longs: Number,
  enums: String,
  oneofs: true,
});
const { StyleTransferService } = grpc.loadPackageDefinition(definition).impasto.v1;

module.exports = {
  client: new StyleTransferService(address, grpc.credentials.createInsecure()),
  folder,
  grpc,
  picture: (name) => ({ data: fs.readFileSync(path.join(folder, name)) }),
};
