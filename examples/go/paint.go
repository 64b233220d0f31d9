// Paints a picture and saves it: submits a job, watches it through lost connections, and downloads the result.
//
//	go run . HOST:PORT PHOTO STYLE OUT.png
//
// IMPASTO_TOKEN is the server's token, IMPASTO_TLS_CA a file with the CA certificates (PEM) that verify it; both are optional, as are
// SIZE (pixels) and STEPS. The stubs in gen/ are made by `go generate`, from the folder that `impasto proto -o protos` writes.
package main

//go:generate mkdir -p gen
//go:generate protoc -I protos --go_out=gen --go_opt=paths=source_relative,Mimpasto/v1/style_transfer.proto=paint/gen/impasto/v1 --go-grpc_out=gen --go-grpc_opt=paths=source_relative,Mimpasto/v1/style_transfer.proto=paint/gen/impasto/v1 impasto/v1/style_transfer.proto

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	impasto "paint/gen/impasto/v1"
)

const attempts = 10

// reason is what an error of the server says to programs.
type reason struct {
	name       string        // stable, such as QUEUE_FULL
	fields     []string      // invalid fields of the request
	retryAfter time.Duration // 0 if the server does not say
}

// reasonOf decodes the details that every error of the server carries.
func reasonOf(err error) reason {
	var found reason
	for _, detail := range status.Convert(err).Details() {
		switch value := detail.(type) {
		case *errdetails.ErrorInfo:
			found.name = value.GetReason()
		case *errdetails.RetryInfo:
			found.retryAfter = time.Duration(value.GetRetryDelay().GetSeconds())*time.Second +
				time.Duration(value.GetRetryDelay().GetNanos())
		case *errdetails.BadRequest:
			for _, violation := range value.GetFieldViolations() {
				found.fields = append(found.fields, violation.GetField())
			}
		}
	}
	return found
}

// patiently repeats a call while the server is unavailable. That is safe: the request id makes the server join the same job.
func patiently[T any](call func() (T, error)) (T, error) {
	for attempt := 0; ; attempt++ {
		value, err := call()
		if err == nil || status.Code(err) != codes.Unavailable || attempt == attempts {
			return value, err
		}
		wait := reasonOf(err).retryAfter
		if wait == 0 {
			wait = time.Second
		}
		time.Sleep(wait)
	}
}

// connect uses Dial and WithInsecure, which every 1.x of grpc has; newer ones prefer NewClient and insecure.NewCredentials.
func connect(address string) (*grpc.ClientConn, error) {
	authority := os.Getenv("IMPASTO_TLS_CA")
	if authority == "" {
		return grpc.Dial(address, grpc.WithInsecure())
	}
	verified, err := credentials.NewClientTLSFromFile(authority, "")
	if err != nil {
		return nil, err
	}
	return grpc.Dial(address, grpc.WithTransportCredentials(verified))
}

func withToken(ctx context.Context) context.Context {
	if token := os.Getenv("IMPASTO_TOKEN"); token != "" {
		return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	return ctx
}

// watch follows a job to its end. After a lost connection it continues after the last event that it has seen.
func watch(ctx context.Context, client impasto.StyleTransferServiceClient, jobID string) (*impasto.Job, error) {
	var seen int64
	return patiently(func() (*impasto.Job, error) {
		request := &impasto.ProgressRequest{Job: &impasto.ProgressRequest_JobId{JobId: jobID}, ResumeAfterSequence: &seen}
		stream, err := client.Progress(ctx, request)
		if err != nil {
			return nil, err
		}
		for {
			event, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil, status.Error(codes.Unavailable, "the stream ended before the job")
			}
			if err != nil {
				return nil, err
			}
			seen = event.GetSequence()
			if step := event.GetStep(); step != nil {
				fmt.Printf("step %d of %d, loss %.4f\n", step.GetStep(), step.GetSteps(), step.GetLosses().GetTotal())
			}
			if result := event.GetResult(); result != nil {
				return result.GetJob(), nil
			}
		}
	})
}

// download returns a picture of any size. After a lost connection it continues after the bytes that have arrived.
func download(ctx context.Context, client impasto.StyleTransferServiceClient, jobID string) ([]byte, error) {
	var file bytes.Buffer
	expected := ""
	_, err := patiently(func() (bool, error) {
		request := &impasto.DownloadResultRequest{JobId: jobID, OffsetBytes: int64(file.Len())}
		stream, err := client.DownloadResult(ctx, request)
		if err != nil {
			return false, err
		}
		for {
			piece, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return true, nil
			}
			if err != nil {
				return false, err
			}
			file.Write(piece.GetChunk())
			expected = piece.GetSha256()
		}
	})
	if err != nil {
		return nil, err
	}
	if found := sha256.Sum256(file.Bytes()); hex.EncodeToString(found[:]) != expected {
		return nil, errors.New("the picture was damaged on its way")
	}
	return file.Bytes(), nil
}

func picture(path string) (*impasto.Image, error) {
	data, err := os.ReadFile(path)
	return &impasto.Image{Source: &impasto.Image_Data{Data: data}}, err
}

func number(variable string, otherwise int32) *int32 {
	if value, err := strconv.Atoi(os.Getenv(variable)); err == nil {
		otherwise = int32(value)
	}
	return &otherwise
}

func paint(address, photo, style, out string) error {
	connection, err := connect(address)
	if err != nil {
		return err
	}
	defer connection.Close()
	client := impasto.NewStyleTransferServiceClient(connection)
	ctx := withToken(context.Background())

	content, err := picture(photo)
	if err != nil {
		return err
	}
	painting, err := picture(style)
	if err != nil {
		return err
	}
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return err
	}
	request := &impasto.SubmitJobRequest{
		Spec: &impasto.JobSpec{
			Content:    content,
			Styles:     []*impasto.Style{{Image: painting}},
			Parameters: &impasto.Parameters{SizePx: number("SIZE", 512), Steps: number("STEPS", 60)},
		},
		RequestId: hex.EncodeToString(id),
	}
	submitted, err := patiently(func() (*impasto.SubmitJobResponse, error) { return client.SubmitJob(ctx, request) })
	if err != nil {
		return err
	}
	job, err := watch(ctx, client, submitted.GetJob().GetJobId())
	if err != nil {
		return err
	}
	if job.GetState() != impasto.JobState_JOB_STATE_SUCCEEDED {
		return fmt.Errorf("the job ended as %s: %s", job.GetState(), job.GetError().GetMessage())
	}
	data, err := download(ctx, client, job.GetJobId())
	if err != nil {
		return err
	}
	return os.WriteFile(out, data, 0o644)
}

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: paint HOST:PORT PHOTO STYLE OUT.png")
		os.Exit(2)
	}
	if err := paint(os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
		said := []string{status.Convert(err).Message()}
		if found := reasonOf(err); found.name != "" {
			said = append(append(said, found.name), found.fields...)
		}
		fmt.Fprintln(os.Stderr, strings.Join(said, " | "))
		os.Exit(1)
	}
}
