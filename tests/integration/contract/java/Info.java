import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.impasto.v1.GetServerInfoRequest;
import io.impasto.v1.StyleTransferServiceGrpc;

/** Prints a server's version, with the stubs that buf.gen.yaml makes. */
public final class Info {
    public static void main(String[] arguments) {
        ManagedChannel channel = ManagedChannelBuilder.forTarget(arguments[0]).usePlaintext().build();
        StyleTransferServiceGrpc.StyleTransferServiceBlockingStub stub = StyleTransferServiceGrpc.newBlockingStub(channel);
        System.out.println(stub.getServerInfo(GetServerInfoRequest.getDefaultInstance()).getVersion());
        channel.shutdownNow();
    }
}
